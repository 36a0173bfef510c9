"""Write files that are complete or absent, whatever ends the process that writes them."""

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

PART = re.compile(r"\..+\.([1-9]\d{0,9})\.part", re.DOTALL)  # a file that a process wrote to, or writes to now
LONGEST = 100  # bytes of the longest name that is part of the name of its temporary file
A_DAY = 86_400  # seconds: no file is written for as long as that


@contextmanager
def atomic_write(path: Path, lasting: bool = False) -> Iterator[Path]:
    """Yield a temporary file beside `path`, which replaces `path` when the block succeeds and is removed when it fails.

    With `lasting`, the file is on the disk by then, so that `path` has its old or its new content after a power cut.
    The block must write to the file that it gets and not replace it, so that `clear_leftovers` sees that it is locked.
    """
    part = part_of(path)
    try:
        with held(part):
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
def held(part: Path) -> Iterator[None]:
    """Make a file and lock it for the length of the block, where open files can be locked and replaced.

    Raise OSError if the file cannot be made.
    """
    if sys.platform == "win32":
        yield
        return
    handle = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        lock(handle)
        yield
    finally:
        os.close(handle)


def lock(handle: int) -> bool | None:
    """Return whether this handle now has the only lock on its file or folder, or None where nothing can be locked."""
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
    """Wait until the content of a file is on the disk. Raise OSError if it cannot be written there."""
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())


def sync_names(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system supports it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in `folder`, and keep those of living processes."""
    with suppress(OSError):  # without a folder, there is nothing to remove
        for part in list(folder.iterdir()):
            named = PART.fullmatch(part.name)
            with suppress(OSError):
                if named and not part.is_symlink() and is_abandoned(part, int(named[1])):
                    shutil.rmtree(part) if part.is_dir() else part.unlink()


def is_abandoned(part: Path, process: int) -> bool:
    """Return whether no process has locked `part` and the process in its name has ended or is another one by now.

    After a day, or on another host, the number may belong to another process. Only the lock is seen across hosts.
    Raise OSError if the file cannot be opened.
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
    """Return whether a process with this number runs on this host."""
    try:
        os.kill(process, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to somebody else
        return True
    return True


@contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Yield whether no other process is in such a block with this folder.

    Where folders cannot be locked, other processes are not seen.
    """
    handle = None if sys.platform == "win32" else os.open(folder, os.O_RDONLY)
    try:
        alone = handle is None or lock(handle) is not False
        with marked(folder) if alone else nullcontext():
            yield alone
    finally:
        if handle is not None:
            os.close(handle)


_alone: list[tuple[int, int]] = []  # device and number of each folder that this process is alone in


@contextmanager
def marked(folder: Path) -> Iterator[None]:
    """Record for the length of the block that this process is alone in a folder."""
    facts = folder.stat()
    _alone.append(place := (facts.st_dev, facts.st_ino))
    try:
        yield
    finally:
        _alone.remove(place)


def is_alone_in(folder: Path) -> bool:
    """Return whether this process is in an `alone_in` block with this folder, not with an older one of its name."""
    try:
        facts = folder.stat()
    except OSError:
        return False
    return (facts.st_dev, facts.st_ino) in _alone


def save_png(image: Image, path: Path, text: PngInfo | None = None) -> None:
    """Write an image file that is complete or absent, with `text` as its metadata. Raise OSError if it fails."""
    with atomic_write(path) as part:
        image.save(part, "PNG", pnginfo=text)


def refused_names(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the names that no file in `folder` can have, and why.

    They are tried in a temporary folder. Raise OSError if it cannot be made.
    """
    refused: dict[str, str] = {}
    trial = Path(mkdtemp(prefix=".", suffix=f".{os.getpid()}.part", dir=folder))  # `clear_leftovers` knows it
    try:
        with alone_in(trial):
            for name in dict.fromkeys(names):
                try:
                    (trial / name).touch()
                    (trial / name).unlink()
                except OSError as error:
                    refused[name] = error.strerror or str(error)
                except ValueError as error:  # the name is in another encoding than the system's, or has a zero byte
                    refused[name] = str(error)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    return refused
