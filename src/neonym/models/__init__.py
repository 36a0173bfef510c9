"""Frozen models: what a family is, how text reaches it, and the one that ships with the package."""
