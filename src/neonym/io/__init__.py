"""Files that are complete or absent, memos, and data that is never code."""
