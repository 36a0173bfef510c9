"""What a run leaves and who follows it: events, listeners, files."""
