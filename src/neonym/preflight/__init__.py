"""What can be known of a run before a weight is read."""
