"""Measurements behind the numbers in the documentation; each script can be run by anyone."""
