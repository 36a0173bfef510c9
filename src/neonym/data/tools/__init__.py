"""Tools for data sets: captions, duplicates."""
