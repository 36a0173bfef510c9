"""Pictures with learned words."""
