"""Settings: one typed schema that yields the flags, the dataset file, docs/settings.md. Imports no torch."""
