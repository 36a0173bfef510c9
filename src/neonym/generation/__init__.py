"""Images with learned words."""
