"""Names that somebody else chose, on a terminal."""

from __future__ import annotations


def shown(text: str) -> str:
    """Return text of somebody else's file on one line, without signs that a terminal obeys."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
