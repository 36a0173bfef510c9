"""The output folder of a fleet, whose content is the fleet's state: a folder, or a place on an object store."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from neonym.errors import UserError
from neonym.extras import install_command, is_installed
from neonym.fleet.shared_folders import MARK, write_mark
from neonym.fleet.words import END, Word
from neonym.io.atomic import alone_in, atomic_write

LOG, PAGE = "fleet.jsonl", "index.html"


class Workspace(Protocol):
    """The folder in which the run of a word writes, and its copy on an object store if there is one."""

    folder: Path

    def fetch(self) -> None:
        """Make the folder what the store holds. Raises OSError."""

    def save(self) -> None:
        """Copy what has changed to the store. Raises OSError."""

    def close(self) -> None:
        """Remove what is only needed while the run is open."""


class Output(Protocol):
    """The output folder of a fleet, as the driver and its workers see it."""

    is_remote: bool  # whether it is on an object store
    mark: str  # by which workers recognise a folder that is claimed; an empty string for object stores

    def workspace(self, word: Word) -> Workspace:
        """Return the workspace of a word."""
        ...

    def check_folder(self, word: Word) -> Path:
        """Return the folder with which the settings of a word are checked."""
        ...

    def looks_finished(self, words: Sequence[Word]) -> set[str]:
        """Return the names of the words that were finished once, judging by the names of their files."""
        ...

    def write(self, name: str, text: str) -> None:
        """Write a text file. Raises OSError."""

    def append(self, name: str, text: str) -> None:
        """Append to a text file. Raises OSError."""

    def claimed(self) -> AbstractContextManager[None]:
        """Return a context in which no other fleet writes here, where that can be known. Raises UserError."""
        ...


def open_output(place: str, scratch: str | None = None) -> Output:
    """Return the output folder at a path or a URL. Raises UserError if it cannot be used.

    `scratch` is the local folder for runs whose output is on an object store.
    """
    if "://" not in place:
        return LocalOutput(Path(place))
    if not is_installed("fsspec"):
        raise UserError("needs the package fsspec", f"--output_dir {place}", f"Run: {install_command('fsspec')}")
    from neonym.fleet.object_store import StoreOutput

    return StoreOutput(place, scratch_folder(place, scratch))


def scratch_folder(place: str, scratch: str | None) -> Path:
    """Return the local folder for the runs of one output folder on an object store.

    Variables of the environment in `scratch`, such as `$TMPDIR`, have their values of this machine.
    """
    return (
        Path(os.path.expandvars(scratch or tempfile.gettempdir()))
        / f"neonym-fleet-{sha256(place.encode()).hexdigest()[:12]}"
    )


class LocalWorkspace:
    """The folder of a word in an output folder that every worker can write to."""

    def __init__(self, folder: Path):
        self.folder = folder

    def fetch(self) -> None:
        """Do nothing: the folder is the state."""

    def save(self) -> None:
        """Do nothing: the run has written to the right place."""

    def close(self) -> None:
        """Do nothing: the folder stays."""


class LocalOutput:
    """An output folder on a local disk, or on a file system that all machines share."""

    is_remote = False

    def __init__(self, folder: Path):
        self.folder = folder
        self.mark = ""

    def workspace(self, word: Word) -> Workspace:
        """Return the workspace of a word."""
        return LocalWorkspace(self.folder / word.name)

    def check_folder(self, word: Word) -> Path:
        """Return the folder with which the settings of a word are checked."""
        return self.folder / word.name

    def looks_finished(self, words: Sequence[Word]) -> set[str]:
        """Return the names of the words that were finished once, judging by the names of their files."""
        return {word.name for word in words if (self.folder / word.name / word.run_folder / END).exists()}

    def write(self, name: str, text: str) -> None:
        """Write a text file. Raises OSError."""
        with atomic_write(self.folder / name) as part:
            part.write_text(text, encoding="utf-8", errors="backslashreplace")

    def append(self, name: str, text: str) -> None:
        """Append to a text file. Raises OSError."""
        with (self.folder / name).open("a", encoding="utf-8", errors="backslashreplace") as opened:
            opened.write(text)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make and mark the folder, and let no other fleet write to it during the block. Raises UserError."""
        with self.or_refused("made"):
            self.folder.mkdir(parents=True, exist_ok=True)
        with alone_in(self.folder) as alone:
            if not alone:
                fix = "Wait until it has ended, or choose another --output_dir"
                raise UserError("another fleet is running here", str(self.folder), fix)
            with self.or_refused("written to"):
                self.mark = write_mark(self.folder)
            try:
                yield
            finally:
                with suppress(OSError):
                    (self.folder / MARK).unlink()

    @contextmanager
    def or_refused(self, done: str) -> Iterator[None]:
        """Let an error of the system in the block become one about the flag. Raises UserError."""
        try:
            yield
        except OSError as error:
            what = f"cannot be {done} ({error.strerror})"
            raise UserError(what, f"--output_dir {self.folder}", "Choose another folder") from error
