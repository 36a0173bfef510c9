"""Run the commands of `neonym`, one module for each."""
