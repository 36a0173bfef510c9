"""Settings: one typed schema that yields the flags, the data-set file, docs/settings.md. Imports no torch."""
