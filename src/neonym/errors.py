"""What can go wrong, as users see it.

    NeonymError            exit code 1
    └── UserError          exit code 2: one paragraph that says what is wrong, where, and how to fix it
        ├── ConfigError    settings, all their problems together
        ├── DataError      images, captions, masks
        ├── ModelError     checkpoints and model folders
        └── FormatError    embedding files

`ValueError` and `assert` are for our own mistakes; nothing in this tree is raised for those.

Messages write the setting `learning_rate` as `--learning_rate`. The command line prints that as it is;
`config.wording` turns it into the name for the Python API.
"""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

EXIT_USER_ERROR = 2
EXIT_NOT_LEARNED = 3
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


def in_one_line(name: str) -> str:
    """Return a file's name as it can be shown: line breaks and the like become escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def counted(number: int, thing: str) -> str:
    """Return `1 image`, `2 images`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def some(names: list[str]) -> str:
    """Return the first three names as one text."""
    return ", ".join(map(in_one_line, names[:3])) + (", ..." if len(names) > 3 else "")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong or doubtful: an `error` stops a run; a `warning` or a `note` does not."""

    severity: Literal["error", "warning", "note"]
    what: str
    where: str = ""  # a setting, a file, or a place in a file
    fix: str = ""

    def __str__(self) -> str:
        parts = [f"{in_one_line(self.where)}: {self.what}" if self.where else self.what]
        if self.fix:
            parts.append(self.fix)
        return " ".join(part if part.endswith((".", "?", "!", "\n")) else part + "." for part in parts)


class NeonymError(Exception):
    """The base of everything that Neonym raises on purpose."""

    exit_code = 1


class UserError(NeonymError):
    """Something that the user can put right. `problems` lists what is wrong, `problem` is the first."""

    exit_code = EXIT_USER_ERROR

    def __init__(self, what: str, where: str = "", fix: str = ""):
        super().__init__(what, where, fix)
        self.problems = [Problem("error", what, where, fix)]

    @property
    def problem(self) -> Problem:
        return self.problems[0]

    def __str__(self) -> str:
        bullet = "- " if len(self.problems) > 1 else ""
        return "\n".join(f"{bullet}{problem}" for problem in self.problems)

    def reword(self, change: Callable[[Problem], Problem]) -> None:
        """Replace every problem by what `change` returns for it."""
        self.problems = [change(problem) for problem in self.problems]


class ConfigError(UserError):
    """Every mistake in the settings at once."""

    def __init__(self, problems: list[Problem]):
        NeonymError.__init__(self, problems)
        self.problems = [p for p in problems if p.severity == "error"]


class DataError(UserError):
    """An image, caption or folder that cannot be used."""


class ModelError(UserError):
    """A model that cannot be recognised, read or used."""


class FormatError(UserError):
    """An embedding file that cannot be read, or that must not be written."""


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Return `Did you mean X?`, or the empty string."""
    found = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean `{found[0]}`?" if found else ""
