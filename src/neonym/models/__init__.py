"""Load and describe frozen text-to-image models, including the built-in one."""
