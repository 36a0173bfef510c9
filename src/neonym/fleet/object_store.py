"""Output on an object store, through fsspec: runs write to a local scratch folder, which is copied to the store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from neonym.errors import UserError
from neonym.fleet.output import Workspace
from neonym.fleet.words import END, Word

SAMPLES = "sample"  # the folder of sample images, which a run writes and never reads
OF_FILES = ("file", "local", "sftp", "ftp", "smb", "hdfs")  # where a file that is written can be seen half-written
TRIAL = ".neonym"  # written once to see whether that is possible
FORGOTTEN = ".part"  # the ending of files that are being written


class StoreWorkspace:
    """The scratch folder of a word, and its place on the store."""

    def __init__(self, fs: Any, place: str, folder: Path, run_folder: str):
        self.fs, self.place, self.folder, self.run_folder = fs, place, folder, run_folder
        self.copied: dict[str, tuple[int, int]] = {}  # size and time of the files that are on the store

    def fetch(self) -> None:
        """Make the scratch folder what the store holds, but for sample images. Raises OSError."""
        with as_os_errors():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            self.fs.invalidate_cache()
            for remote in self.fs.find(self.place):
                name = relative(remote, self.place)
                if SAMPLES not in PurePosixPath(name).parts and not name.endswith(FORGOTTEN):
                    local = self.folder / name
                    local.parent.mkdir(parents=True, exist_ok=True)
                    self.fs.get_file(remote, str(local))
            self.copied = self.present()

    def present(self) -> dict[str, tuple[int, int]]:
        """Return the size and the time of every file in the scratch folder; the state of a finished run comes last.

        A store that holds that state then holds all files of the run.
        """
        files = [path for path in self.folder.rglob("*") if path.is_file() and path.suffix != FORGOTTEN]
        names = sorted((path.name == END, path.relative_to(self.folder).as_posix()) for path in files)
        found = {}
        for _, name in names:
            facts = (self.folder / name).stat()
            found[name] = facts.st_size, facts.st_mtime_ns
        return found

    def save(self) -> None:
        """Copy the files that have changed to the store, and remove those that the run has removed. Raises OSError."""
        with as_os_errors():
            present = self.present()
            for name, facts in present.items():
                if self.copied.get(name) != facts:
                    put(self.fs, self.folder / name, f"{self.place}/{name}")
                    self.copied[name] = facts
            for name in self.copied.keys() - present.keys():
                self.fs.rm_file(f"{self.place}/{name}")
                del self.copied[name]

    def close(self) -> None:
        """Remove the scratch folder, unless it holds what is not on the store."""
        if self.present() == self.copied:
            shutil.rmtree(self.folder, ignore_errors=True)


class StoreOutput:
    """An output folder on an object store. Nothing can be locked there: start one fleet for each."""

    is_remote = True
    mark = ""

    def __init__(self, url: str, scratch: Path):
        self.url, self.scratch = url, scratch
        try:
            self.fs, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError, OSError) as error:
            fix = "Write a URL such as s3://bucket/folder, and install the package of its file system"
            raise UserError(f"cannot be used ({error})", f"--output_dir {url}", fix) from error
        self.root = str(root).rstrip("/")

    def workspace(self, word: Word) -> Workspace:
        """Return the workspace of a word."""
        return StoreWorkspace(self.fs, f"{self.root}/{word.name}", self.scratch / word.name, word.run_folder)

    def check_folder(self, word: Word) -> Path:
        """Return the folder with which the settings of a word are checked."""
        return self.scratch / word.name

    def looks_finished(self, words: Sequence[Word]) -> set[str]:
        """Return the names of the words that were finished once, judging by the names of their files."""
        self.fs.invalidate_cache()
        present = {relative(remote, self.root) for remote in self.fs.find(self.root)}
        return {word.name for word in words if f"{word.name}/{word.run_folder}/{END}" in present}

    def write(self, name: str, text: str) -> None:
        """Write a text file. Raises OSError."""
        with as_os_errors():
            self.fs.pipe_file(f"{self.root}/{name}", text.encode("utf-8", "backslashreplace"))

    def append(self, name: str, text: str) -> None:
        """Append to a text file, which is written as a whole. Raises OSError."""
        with as_os_errors():
            place = f"{self.root}/{name}"
            before = self.fs.cat_file(place) if self.fs.exists(place) else b""
            self.fs.pipe_file(place, before + text.encode("utf-8", "backslashreplace"))

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Try to write to the place. Raises UserError if the store refuses; no bucket is made."""
        try:
            with as_os_errors():
                trial = f"{self.root}/{TRIAL}"
                if has_folders(self.fs):
                    self.fs.makedirs(self.root, exist_ok=True)
                self.fs.pipe_file(trial, b"")
                self.fs.rm_file(trial)
        except OSError as error:
            fix = "Check its name, the keys and the network"
            raise UserError(f"cannot be used ({error})", f"--output_dir {self.url}", fix) from error
        yield


@contextmanager
def as_os_errors() -> Iterator[None]:
    """Let every error of the store in the block become an OSError: each library has errors of its own."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def relative(remote: str, root: str) -> str:
    """Return the name of a file on the store below a place."""
    return remote.removeprefix(root).lstrip("/")


def has_folders(fs: Any) -> bool:
    """Return whether a file system has folders, and shows files while they are written."""
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return bool(set(protocols) & set(OF_FILES))


def put(fs: Any, local: Path, remote: str) -> None:
    """Copy a file to the store, where it is complete or absent."""
    if has_folders(fs):
        fs.makedirs(remote.rpartition("/")[0], exist_ok=True)
        fs.put_file(str(local), f"{remote}{FORGOTTEN}")
        fs.mv(f"{remote}{FORGOTTEN}", remote)
    else:
        fs.put_file(str(local), remote)
