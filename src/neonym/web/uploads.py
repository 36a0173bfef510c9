"""Take images and captions that are uploaded, after a check that they are what their names say."""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections import Counter
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
PATIENCE = 600.0  # seconds that a caption waits for its image, which may be large


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
    """Files that are sent together, of which those of one stem are an image and its caption, and keep one stem.

    `refused` are the names of files that were chosen with them, and that the browser does not send.
    """

    def __init__(self, names: Iterable[str], refused: Iterable[str] = ()):
        images = [Path(name).stem for name in names if is_image(name)]
        self.expected = Counter(images)  # how many images of a stem were neither taken nor refused yet
        refused = (name for name in refused if Path(name).suffix.lower() not in CAPTIONS)
        self.with_image = {*images, *(Path(name).stem for name in refused)}
        self.taken: set[str] = set()  # the stems of images that were taken
        self.decided = {stem: asyncio.Event() for stem in images}
        self.stems: dict[str, str] = {}  # as they were sent -> as they are in the folder

    def decide(self, image: str, is_taken: bool) -> None:
        """Note whether an image was taken."""
        stem = Path(image).stem
        self.expected[stem] -= 1
        self.taken |= {stem} if is_taken else set()
        if stem in self.decided and (is_taken or not self.expected[stem]):
            self.decided[stem].set()

    async def wants(self, caption: str) -> bool:
        """Return whether a caption was sent alone or with an image that was taken, for which it waits."""
        stem = Path(caption).stem
        if stem in self.decided:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.decided[stem].wait(), PATIENCE)
        return stem in self.taken or stem not in self.with_image

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
    """Write an uploaded image or caption into a folder, and return its path.

    Raises UserError if it is neither, or if it is the caption of an image that was refused.
    """
    batch = batch or Batch([upload.name])
    is_taken = False
    try:
        path = await take_checked(folder, upload, batch)
        is_taken = True
        return path
    finally:
        if is_image(upload.name):
            batch.decide(upload.name, is_taken)


async def take_checked(folder: Path, upload: Upload, batch: Batch) -> Path:
    """Write a file of a batch into a folder if nothing is wrong with it, and return its path. Raises UserError."""
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
            if suffix in CAPTIONS and not await batch.wants(upload.name):
                raise UserError("is not kept, as its image was not taken", upload.name, "Send it again, with its image")
            with NAMES:
                return part.replace(batch.path(folder, upload.name))
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def is_image(name: str) -> bool:
    """Return whether the name of an upload is that of an image."""
    return Path(safe_name(name)).suffix.lower() in ENDINGS


def fix_for(suffix: str) -> str:
    """Return the fix for a file of a wrong kind."""
    return "Save it as PNG, JPEG or WebP" if suffix in (".gif", ".tif", ".tiff", ".heic", ".heif") else "Choose images"


def safe_name(name: str) -> str:
    """Return a file name of an upload without anything that has a meaning for a file system."""
    base = unicodedata.normalize("NFC", Path(name.replace("\\", "/")).name)
    kept = re.sub(r"[^\w .()-]", "_", base).strip(" .") or "image"
    stem, suffix = Path(kept).stem.encode()[:LONGEST].decode(errors="ignore"), Path(kept).suffix
    return f"{stem}{suffix[:10]}"
