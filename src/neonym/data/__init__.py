"""The way from folders to draws: records, captions, buckets, the plan, the cache of moments, the loader."""
