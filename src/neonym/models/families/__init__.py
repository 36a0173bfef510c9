"""Define the supported families of models: everything that is specific to a family is here."""
