"""Tokenize captions to ids, including the ids of learned rows."""
