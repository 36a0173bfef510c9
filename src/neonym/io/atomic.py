"""Write files atomically: they are complete or absent, however the writing process ends."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.PngImagePlugin import PngInfo

# A temporary file, with the id of the process that writes it
PART = re.compile(r"\..+\.([1-9]\d{0,9})\.part", re.DOTALL)
LONGEST = 100  # bytes; longer names are hashed in the names of temporary files
A_DAY = 86_400  # seconds: writing a file never takes that long


@contextmanager
def atomic_write(path: Path, lasting: bool = False, private: bool = False) -> Iterator[Path]:
    """Yield a temporary file beside `path`, which replaces `path` when the block succeeds and is removed when it fails.

    With `lasting`, the file is flushed to disk first, so that `path` has its old or its new content after a power cut.
    With `private`, only its owner can read it from the beginning, where the system has such permissions.
    The block must write to the file that it gets and not replace it, so that `clear_leftovers` finds it locked.
    """
    part = part_of(path)
    try:
        with held(part, 0o600 if private else 0o666):
            yield part
            if lasting:
                sync(part)
            part.replace(path)
        if lasting:
            sync_names(path.parent)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """Return the temporary file that becomes `path`. Its name is valid wherever the name of `path` is."""
    name = path.name if len(os.fsencode(path.name)) <= LONGEST else sha256(os.fsencode(path.name)).hexdigest()[:32]
    return path.with_name(f".{name}.{os.getpid()}.part")


@contextmanager
def held(part: Path, mode: int = 0o666) -> Iterator[None]:
    """Create a file and lock it during the block, where the system can lock and replace open files.

    `mode` holds its permissions, less the umask. Raises OSError if the file cannot be created.
    """
    if sys.platform == "win32":
        yield
        return
    handle = os.open(part, os.O_RDWR | os.O_CREAT, mode)
    try:
        lock(handle)
        yield
    finally:
        os.close(handle)


def lock(handle: int) -> bool | None:
    """Return whether this handle now has the lock on its file or folder, or None if locks are unsupported."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network disks
        return None
    return True


def sync(file: Path) -> None:
    """Flush the content of a file to disk. Raises OSError if it cannot be written."""
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())


def sync_names(folder: Path) -> None:
    """Flush the names in a folder to disk, where the system supports it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in `folder`, but not those of running processes."""
    with suppress(OSError):  # without a folder, there is nothing to remove
        for part in list(folder.iterdir()):
            named = PART.fullmatch(part.name)
            with suppress(OSError):
                if named and not part.is_symlink() and is_abandoned(part, int(named[1])):
                    shutil.rmtree(part) if part.is_dir() else part.unlink()


def is_abandoned(part: Path, process: int) -> bool:
    """Return whether `part` is not locked and the process in its name is not writing it any more.

    After a day, or on another host, the process id may belong to another process. Only locks are visible across hosts.
    Raises OSError if the file cannot be opened.
    """
    old = time.time() - part.stat().st_mtime > A_DAY
    if sys.platform == "win32":
        return old
    handle = os.open(part, os.O_RDONLY)
    try:
        free = lock(handle)
    finally:
        os.close(handle)
    if free is None:
        return old
    return free and (old or process == os.getpid() or not is_alive(process))


def is_alive(process: int) -> bool:
    """Return whether a process with this id runs on this host."""
    try:
        os.kill(process, 0)  # signal 0 only checks
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to another user
        return True
    return True


@contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Yield whether no other process is in such a block for this folder.

    Where folders cannot be locked, other processes are not detected.
    """
    handle = None if sys.platform == "win32" else os.open(folder, os.O_RDONLY)
    try:
        alone = handle is None or lock(handle) is not False
        with marked(folder) if alone else nullcontext():
            yield alone
    finally:
        if handle is not None:
            os.close(handle)


_alone: list[tuple[int, int]] = []  # device and inode of each folder that this process is alone in


@contextmanager
def marked(folder: Path) -> Iterator[None]:
    """Record during the block that this process is alone in a folder."""
    facts = folder.stat()
    _alone.append(inode := (facts.st_dev, facts.st_ino))
    try:
        yield
    finally:
        _alone.remove(inode)


def is_alone_in(folder: Path) -> bool:
    """Return whether this process is in an `alone_in` block for this folder (not for a deleted one of the same name)."""
    try:
        facts = folder.stat()
    except OSError:
        return False
    return (facts.st_dev, facts.st_ino) in _alone


def save_png(image: Image, path: Path, text: PngInfo | None = None) -> None:
    """Write a PNG file atomically, with `text` as its metadata. Raises OSError if it fails."""
    with atomic_write(path) as part:
        image.save(part, "PNG", pnginfo=text)


def refused_names(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the names that no file in `folder` can have, each with the reason.

    The names are tried in a temporary folder. Raises OSError if it cannot be created.
    """
    refused: dict[str, str] = {}
    # Its name is one that `clear_leftovers` matches
    trial = Path(mkdtemp(prefix=".", suffix=f".{os.getpid()}.part", dir=folder))
    try:
        with alone_in(trial):
            for name in dict.fromkeys(names):
                try:
                    (trial / name).touch()
                    (trial / name).unlink()
                except OSError as error:
                    refused[name] = error.strerror or str(error)
                except ValueError as error:  # the name cannot be encoded, or has a zero byte
                    refused[name] = str(error)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    return refused
