"""Spell settings in messages: `--learning_rate` on the command line, `learning_rate` in Python.

Messages are written for the command line (`neonym.errors`). These functions convert them for Python.
"""

import re
from collections.abc import Container
from dataclasses import replace

from neonym.errors import Problem

# the flags in a command keep their dashes
COMMAND = r"(?:neonym|gen_img\S*|accelerate launch|pip install)\b(?: \w+)?:? [^;)]*"
FLAG = re.compile(rf"({COMMAND})|(?<![\w`-])(`?)--([A-Za-z_]\w*)(=[^\s,;`)]*[^\s,;`).])?(`?)")


def text_in_python(text: str, names: Container[str], quoted: bool = True) -> str:
    """Return `text` with `name` in place of `--name` for each of the settings `names`, in backticks if `quoted`."""

    def spelled(found: re.Match[str]) -> str:
        """Return the spelling of one flag; a command, or a flag that is no setting, stays as it is."""
        command, _, name, value, _ = found.groups()
        if command or name not in names:
            return found.group()
        return f"`{name}{value or ''}`" if quoted else f"{name}{value or ''}"

    return FLAG.sub(spelled, text)


def in_python(problem: Problem, names: Container[str]) -> Problem:
    """Return `problem` worded for Python, in which the settings `names` have no dashes."""
    return replace(
        problem,
        what=text_in_python(problem.what, names),
        where=text_in_python(problem.where, names, quoted=False),
        fix=text_in_python(problem.fix, names),
    )
