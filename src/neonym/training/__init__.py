"""Learning words, from a plan to files."""
