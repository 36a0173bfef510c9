"""Names that somebody else chose, as names of files and on a terminal."""

from __future__ import annotations

import re


def file_stem(token: str) -> str:
    """A token as the name of a file in a given folder, never elsewhere: a file from somebody else says the token."""
    return re.sub(r"[/\\\0]", "_", token)


def shown(text: str) -> str:
    """Text of somebody else's file on one line, without signs that a terminal obeys."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
