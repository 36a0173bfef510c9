"""Print text from files of unknown origin safely on a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return a text on one line, with control characters, which a terminal would obey, escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
