"""Tools for data sets: clean up captions and find duplicates."""
