"""Training: from a complete plan to the files of the learned words."""
