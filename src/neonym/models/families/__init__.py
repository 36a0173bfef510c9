"""All that is special about a family of models."""
