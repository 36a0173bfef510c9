"""Recognise, read and assemble model files."""
