"""Rewording of messages for Python programs: settings by name, not as flags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from neonym.config import wording
from neonym.config.generate import GenerateSettings
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from neonym.config.sdscripts import GENERATOR, SDSCRIPTS
from neonym.errors import Problem, UserError

CONVERSION = ("word", "to", "token", "vectors", "picture", "overwrite")
NAMES = frozenset(
    [
        *(name for _, name, _ in fields_of(RunConfig)),
        *GenerateSettings.model_fields,
        *SDSCRIPTS,
        *GENERATOR,
        *CONVERSION,
    ]
)


@contextmanager
def python_wording() -> Iterator[None]:
    """Reword every UserError of the block so that it names settings, not flags."""
    try:
        yield
    except UserError as error:
        error.reword(in_python)
        raise


def in_python(problem: Problem) -> Problem:
    """Return a problem as it is worded for Python."""
    return wording.in_python(problem, NAMES)


def all_in_python(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems as they are worded for Python, without duplicates."""
    return list(dict.fromkeys(map(in_python, problems)))


def text_in_python(text: str) -> str:
    """Return the text of a note as it is worded for Python."""
    return wording.text_in_python(text, NAMES)
