"""Tools for data sets: captions and duplicates."""
