"""Files that are complete or absent."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.PngImagePlugin import PngInfo


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to. It takes `path`'s place when the block ends well; else nothing of it is left."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Whether no other process is in such a block with this folder. Where folders cannot be locked nothing is known of others."""
    handle, alone = None, True
    if sys.platform != "win32":
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        except OSError:  # some network disks
            pass
    try:
        yield alone
    finally:
        if handle is not None:
            os.close(handle)


def save_png(picture: Image, path: Path, text: PngInfo | None = None) -> None:
    """A picture that is complete or absent, with what is to be said of it in it. Raises OSError."""
    with whole_file(path) as part:
        picture.save(part, "PNG", pnginfo=text)
