"""Everything that can be known about a run before any weights are read."""
