"""Checks that a worker has the folders of its driver, which another machine may lack or have with other content."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from neonym.errors import UserError
from neonym.fleet.words import Word

MARK = ".neonym-fleet"  # the file in the output folder by which workers recognise it, while the driver runs
MARK_SECONDS = 30.0  # until what one machine writes is seen by another, at most
NO_PATHS = ("token_string", "output_name", "init_word")  # settings that may have the name of a file by chance


def write_mark(folder: Path) -> str:
    """Mark a folder, and return what its mark says. Raises OSError."""
    mark = secrets.token_hex(16)
    (folder / MARK).write_text(mark, encoding="ascii")
    return mark


def check_mark(place: str, mark: str) -> None:
    """Raise UserError if a folder is not the one that the driver has marked."""
    ends = time.monotonic() + MARK_SECONDS
    while read_mark(Path(place)) != mark:
        if time.monotonic() >= ends:
            what = "is not the folder that the driver writes to"
            fix = "Name a folder that all machines share at the same path, or the URL of an object store"
            raise UserError(what, f"--output_dir {place} on {socket.gethostname()}", fix)
        time.sleep(0.2)


def read_mark(folder: Path) -> str:
    """Return what the mark in a folder says; an empty string if there is none."""
    try:
        return (folder / MARK).read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def check_start_folder(folder: str) -> None:
    """Raise UserError if the folder that relative paths start from is missing."""
    if not Path(folder).is_dir():
        what = "is missing, and the command has paths that are relative to it"
        raise UserError(what, f"{folder} on {socket.gethostname()}", "Make it available there, or use absolute paths")


def have_relative_paths(words: Sequence[Word], place: str) -> bool:
    """Return whether the output folder or a file or folder that the words use is named by a relative path."""
    return is_relative(place) or any(
        names_relative({name: value for name, value in word.settings.items() if name not in NO_PATHS}) for word in words
    )


def names_relative(value: object) -> bool:
    """Return whether a value of a setting, or one within it, is the relative path of something that exists."""
    if isinstance(value, Mapping):
        return any(map(names_relative, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(names_relative, value))
    return isinstance(value, str) and is_relative(value) and exists(value)


def exists(path: str) -> bool:
    """Return whether a text is the path of something; it may be too long for one, or have a NUL."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def is_relative(path: str) -> bool:
    """Return whether a text would be a relative path."""
    return bool(path) and "://" not in path and not Path(path).is_absolute()
