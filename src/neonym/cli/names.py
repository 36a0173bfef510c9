"""Print names that somebody else chose safely on a terminal."""

from __future__ import annotations


def shown(text: str) -> str:
    """Return the text of a foreign file on one line, with the characters that a terminal obeys escaped."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
