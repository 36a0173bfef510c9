"""The text side of models: learned rows beside a frozen table."""
