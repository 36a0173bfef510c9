"""The problems that Neonym reports, and the exceptions that carry them.

    NeonymError            exit code 1
    └── UserError          exit code 2: one paragraph that says what is wrong, where, and how to fix it
        ├── ConfigError    settings, all their problems together
        ├── DataError      images, captions, masks
        ├── ModelError     checkpoints and model folders
        ├── FormatError    embedding files
        └── RefuseRun      a run that a listener refuses

A mistake in the program itself is a `ValueError` or a failed `assert`, never one of these classes.

Messages spell the setting `learning_rate` as `--learning_rate`. The command line prints them unchanged;
`config.wording` turns flags into the names that the Python API uses.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

PREDICATE = re.compile(  # a text that continues the name of a place as a sentence
    r"(?:are|belongs|cannot|contains|contradicts|does|exists|has|holds|is|lists|looks|makes|mixes|must|names|needs|only "
    r"works|takes|wants|was)\b"
)
EXIT_USER_ERROR = 2
EXIT_NOT_LEARNED = 3
EXIT_INTERRUPTED = 130


def in_one_line(name: str) -> str:
    """Return a file name that fits on one line: line breaks and other unprintable characters become escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def counted(number: int, thing: str) -> str:
    """Return a number with its noun, such as `1 image` or `2 images`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def some(names: list[str]) -> str:
    """Return the first three names, separated by commas, with `...` if there are more."""
    return ", ".join(map(in_one_line, names[:3])) + (", ..." if len(names) > 3 else "")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong or doubtful. An `error` stops a run; a `warning` or a `note` does not."""

    severity: Literal["error", "warning", "note"]
    what: str
    where: str = ""  # a setting, a file, or a place in a file
    fix: str = ""

    def __str__(self) -> str:
        joint = " " if PREDICATE.match(self.what) else ": "
        parts = [f"{in_one_line(self.where)}{joint}{self.what}" if self.where else self.what]
        if self.fix:
            parts.append(self.fix)
        return " ".join(part if part.endswith((".", "?", "!", "\n")) else part + "." for part in parts)


class NeonymError(Exception):
    """The base class of every exception that Neonym raises on purpose."""

    exit_code = 1


class UserError(NeonymError):
    """An error that the user can fix. `problems` lists everything that is wrong; `problem` is the first of them."""

    exit_code = EXIT_USER_ERROR

    def __init__(self, what: str, where: str = "", fix: str = ""):
        super().__init__(what, where, fix)
        self.problems = [Problem("error", what, where, fix)]

    @property
    def problem(self) -> Problem:
        """The first problem, which is the only one of most errors."""
        return self.problems[0]

    def __str__(self) -> str:
        bullet = "- " if len(self.problems) > 1 else ""
        return "\n".join(f"{bullet}{problem}" for problem in self.problems)

    def reword(self, change: Callable[[Problem], Problem]) -> None:
        """Replace every problem with what `change` returns for it."""
        self.problems = [change(problem) for problem in self.problems]


class ConfigError(UserError):
    """All mistakes in the settings, reported together."""

    def __init__(self, problems: list[Problem]):
        NeonymError.__init__(self, problems)
        self.problems = [p for p in problems if p.severity == "error"]


class DataError(UserError):
    """An image, caption or folder that cannot be used."""


class ModelError(UserError):
    """A checkpoint or model folder that cannot be recognised, read or used."""


class FormatError(UserError):
    """An embedding file that cannot be read, or cannot be written as requested."""


class RefuseRun(UserError):
    """The refusal of a run: a listener raises it at `Opened`, and the run ends before anything is loaded."""


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Return `Did you mean X?` for the known name that is most similar, or an empty string if none is similar."""
    found = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean `{found[0]}`?" if found else ""
