"""Write files atomically, cache results, and read data without running code."""
