"""Generate images with learned words."""
