"""The page for people who do not type commands: built on the Python API, the events and the run folders alone."""
