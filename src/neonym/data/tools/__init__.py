"""Tools for datasets: clean up captions and find duplicates."""
