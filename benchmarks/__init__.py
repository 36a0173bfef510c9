"""The measurements behind the numbers in the documentation, as scripts that anyone can run."""
