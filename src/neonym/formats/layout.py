"""Define what a layout of embedding files is: a record of how its files are recognised, read and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image

from neonym.formats.content import FileContent
from neonym.types import Embedding


@dataclass(frozen=True)
class Target:
    """A file to write: where it is written first, what it will be called, and the image on a card."""

    path: Path  # a temporary file, which takes its place when it is complete
    name: str  # of the final file, without its extension
    picture: Image | None = None


Reader = Callable[[Path], FileContent]  # raises FormatError; never runs code from the file
Writer = Callable[[Embedding, Target], None]  # is given checked vectors; the caller makes the file atomic


@dataclass(frozen=True)
class Layout:
    """One way in which programs store words in a file. A layout reads files, writes them, or does both."""

    name: str
    read: Reader | None = None
    write: Writer | None = None
    begins: Callable[[bytes], bool] | None = None  # whether a file with these first 64 bytes is of this layout
    # Such as "safetensors": files with these are written in this layout, and read in it if no layout begins like them
    extensions: tuple[str, ...] = ()
    reads_header_first: bool = False  # only what is needed is read, so a file may be large
