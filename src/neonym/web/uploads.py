"""Take images and captions that are uploaded, after a check that they are what their names say."""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import Awaitable, Collection, Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Protocol
from uuid import uuid4

from neonym import UserError
from neonym.web.data_set import CAPTIONS, images_in
from neonym.web.disk import reporting_disk_errors
from neonym.web.images import ENDINGS, fault_of_image

NAMES = Lock()  # two files may have one name
LONGEST = 120  # bytes of the name of a file
LARGEST = 100 * 2**20  # bytes of a file: an image of 24 megapixels has at most 96 MB
LARGEST_CAPTION = 2**20


class Upload(Protocol):
    """A file that the browser sent."""

    name: str

    def size(self) -> int:
        """Return its size in bytes."""
        ...

    def save(self, path: Path, /) -> Awaitable[None]:
        """Write it to a path."""
        ...


class Batch:
    """Files that are sent together, of which those of one stem are an image and its caption, and keep one stem."""

    def __init__(self, names: Iterable[str]):
        self.with_image = {Path(name).stem for name in names if Path(name).suffix.lower() in ENDINGS}
        self.stems: dict[str, str] = {}  # as they were sent -> as they are in the folder

    def path(self, folder: Path, name: str) -> Path:
        """Return the path of a file in a folder. No image is replaced; a caption that comes alone replaces the old one."""
        given, safe = Path(name).stem, Path(safe_name(name))
        if given not in self.stems:
            others = (*self.stems.values(), *(image.stem for image in images_in(folder)))
            self.stems[given] = numbered(safe.stem, others if given in self.with_image else ())
        path = folder / f"{self.stems[given]}{safe.suffix}"
        if safe.suffix.lower() in ENDINGS and path.exists():  # another tab was faster
            path = path.with_stem(numbered(path.stem, [image.stem for image in images_in(folder)]))
        return path


def numbered(stem: str, taken: Collection[str]) -> str:
    """Return a stem, with a number behind it if it is taken."""
    return next(each for i in count(1) if (each := stem if i == 1 else f"{stem}-{i}") not in taken)


async def take_upload(folder: Path, upload: Upload, batch: Batch | None = None) -> Path:
    """Write an uploaded image or caption into a folder, and return its path. Raises UserError if it is neither."""
    batch = batch or Batch([upload.name])
    suffix = Path(safe_name(upload.name)).suffix.lower()
    if suffix not in (*ENDINGS, *CAPTIONS):
        raise UserError(
            "is neither an image that can be learned from nor a caption (.txt)", upload.name, fix_for(suffix)
        )
    most = LARGEST if suffix in ENDINGS else LARGEST_CAPTION
    if upload.size() > most:
        raise UserError(f"has more than {most // 2**20} MB", upload.name, "Make it smaller")
    part = folder / f".upload-{uuid4().hex}.part{suffix}"
    try:
        with reporting_disk_errors(upload.name):
            await upload.save(part)
            if suffix in ENDINGS and (fault := await asyncio.to_thread(fault_of_image, part)):
                raise UserError(fault, upload.name, "Choose another file")
            with NAMES:
                return part.replace(batch.path(folder, upload.name))
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def fix_for(suffix: str) -> str:
    """Return the fix for a file of a wrong kind."""
    return "Save it as PNG, JPEG or WebP" if suffix in (".gif", ".tif", ".tiff", ".heic", ".heif") else "Choose images"


def safe_name(name: str) -> str:
    """Return a file name of an upload without anything that has a meaning for a file system."""
    base = unicodedata.normalize("NFC", Path(name.replace("\\", "/")).name)
    kept = re.sub(r"[^\w .()-]", "_", base).strip(" .") or "image"
    stem, suffix = Path(kept).stem.encode()[:LONGEST].decode(errors="ignore"), Path(kept).suffix
    return f"{stem}{suffix[:10]}"
