"""Write files that are complete or absent, keep memos, and read data that is never code."""
