"""What can go wrong, as users see it.

    NeonymError            exit code 1
    └── UserError          exit code 2: one paragraph that says what, where, and how to fix it
        ├── ConfigError    flags and config files, all their problems together
        ├── DataError      pictures, captions, masks
        ├── ModelError     checkpoints and model folders
        └── FormatError    embedding files

`ValueError` and `assert` are for our own mistakes; nothing in this tree is raised for those.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

EXIT_USER_ERROR = 2
EXIT_NOT_LEARNED = 3
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


def in_one_line(name: str) -> str:
    """A file's name as it can be shown: line breaks and the like as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def counted(number: int, thing: str) -> str:
    """Return `1 image`, `2 images`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def some(names: list[str]) -> str:
    """The first three."""
    return ", ".join(map(in_one_line, names[:3])) + (", ..." if len(names) > 3 else "")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong or doubtful: `error` stops a run, `warning` and `note` are said and passed."""

    severity: Literal["error", "warning", "note"]
    what: str
    where: str = ""
    fix: str = ""

    def __str__(self) -> str:
        parts = [f"{in_one_line(self.where)}: {self.what}" if self.where else self.what]
        if self.fix:
            parts.append(self.fix)
        return " ".join(part if part.endswith((".", "?", "!", "\n")) else part + "." for part in parts)


class NeonymError(Exception):
    """Everything that Neonym raises on purpose."""

    exit_code = 1


class UserError(NeonymError):
    """Something that the user can put right."""

    exit_code = EXIT_USER_ERROR

    def __init__(self, what: str, where: str = "", fix: str = ""):
        self.problem = Problem("error", what, where, fix)
        super().__init__(str(self.problem))


class ConfigError(UserError):
    """Every mistake of the settings at once."""

    def __init__(self, problems: list[Problem]):
        self.problems = [p for p in problems if p.severity == "error"]
        bullet = "- " if len(self.problems) > 1 else ""
        NeonymError.__init__(self, "\n".join(f"{bullet}{p}" for p in self.problems))


class DataError(UserError):
    """A picture, caption or folder that cannot be used."""


class ModelError(UserError):
    """A model that cannot be recognised, read or used."""


class FormatError(UserError):
    """An embedding file that cannot be read, or that must not be written."""


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """-> 'Did you mean X?', or the empty string."""
    found = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean `{found[0]}`?" if found else ""
