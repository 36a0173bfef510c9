"""Files that are complete or absent, whatever ends the process that writes them."""

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

PART = re.compile(r"\..+\.([1-9]\d{0,9})\.part", re.DOTALL)  # a file that process wrote to, or writes to now
LONGEST = 100  # bytes of a name that stands in the name of its part as it is
A_DAY = 86_400  # seconds: nothing is written to for so long


@contextmanager
def atomic_write(path: Path, lasting: bool = False) -> Iterator[Path]:
    """Yield a file beside `path` to write to. It takes `path`'s place when the block ends well; else nothing of it is left.

    `lasting`: it is on the disk by then, so that after a power cut `path` has its old content or its new one. The block
    writes to the file that it is given and does not put another one in its place, so that `clear_leftovers` sees it held.
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
    """Return the file that becomes `path`. Where `path` can have its name, so can its part."""
    name = path.name if len(os.fsencode(path.name)) <= LONGEST else sha256(os.fsencode(path.name)).hexdigest()[:32]
    return path.with_name(f".{name}.{os.getpid()}.part")


@contextmanager
def held(part: Path) -> Iterator[None]:
    """Make a file and lock it while the block lasts, where open files can be locked and replaced. Raises OSError."""
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
    """Return whether this handle alone holds its file or folder now; None where nothing can be locked."""
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
    """Wait until the content of a file is on the disk. Raises OSError."""
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())


def sync_names(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can say so."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def clear_leftovers(folder: Path) -> None:
    """Remove what killed processes left of the files that they were writing in `folder`, and nothing of a living process."""
    with suppress(OSError):  # no folder, nothing left in it
        for part in list(folder.iterdir()):
            named = PART.fullmatch(part.name)
            with suppress(OSError):
                if named and not part.is_symlink() and is_abandoned(part, int(named[1])):
                    shutil.rmtree(part) if part.is_dir() else part.unlink()


def is_abandoned(part: Path, process: int) -> bool:
    """Return whether no process has `part` locked, and the one that it is named after has ended or cannot mean it.

    A number means another process after a day, and another one on another host; the lock is what is seen across hosts.
    Raises OSError.
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
    """Return whether there is a process of this number on this host."""
    try:
        os.kill(process, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to somebody else
        return True
    return True


@contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Yield whether no other process is in such a block with this folder. Where folders cannot be locked nothing is known of others."""
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
    """Remember, while the block lasts, that this process is alone in a folder."""
    facts = folder.stat()
    _alone.append(place := (facts.st_dev, facts.st_ino))
    try:
        yield
    finally:
        _alone.remove(place)


def is_alone_in(folder: Path) -> bool:
    """Return whether this process is in an `alone_in` block with this very folder, not with an older one of its name."""
    try:
        facts = folder.stat()
    except OSError:
        return False
    return (facts.st_dev, facts.st_ino) in _alone


def save_png(picture: Image, path: Path, text: PngInfo | None = None) -> None:
    """Write an image that is complete or absent, with what is to be said of it in it. Raises OSError."""
    with atomic_write(path) as part:
        picture.save(part, "PNG", pnginfo=text)


def refused_names(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the names that no file in `folder` can have, and why: they are tried in a folder that is removed again.

    Raises OSError if nothing can be made there.
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
                except ValueError as error:  # of another encoding than the system's, or with a zero byte
                    refused[name] = str(error)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    return refused
