"""The events of a run, the listeners that follow it, and the files that it writes."""
