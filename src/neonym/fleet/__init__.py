"""Hundreds of words from one plan file, by local processes or on Ray, built on the API, the events and run folders."""
