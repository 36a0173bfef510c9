"""Print problems, and text from files of unknown origin, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from neonym.errors import Problem


def print_problems(problems: Iterable[Problem]) -> None:
    """Print problems to the error stream."""
    for problem in problems:
        print(f"{problem.severity}: {problem}", file=sys.stderr)


def printable(text: str) -> str:
    """Return a text on one line, with control characters, which a terminal would obey, escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
