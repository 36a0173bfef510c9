"""A folder of images with their captions, as the page shows and edits it."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from uuid import uuid4

from neonym import UserError
from neonym.io.atomic import atomic_write
from neonym.web.disk import reporting_disk_errors
from neonym.web.images import ENDINGS, is_image

CAPTIONS = (".txt", ".caption")
UPLOADS = Lock()
LONGEST = 120  # bytes of the name of an uploaded file


@dataclass
class DataSet:
    """A folder of images. Captions are read when they are shown, and written beside the image."""

    folder: Path

    def images(self) -> list[Path]:
        """Return the images in the folder, by name; none if it cannot be read."""
        try:
            with os.scandir(self.folder) as entries:
                found = [Path(entry.path) for entry in entries if is_image_name(entry.name)]
        except OSError:
            return []
        return sorted(found, key=lambda path: [*map(natural, re.split(r"(\d+)", path.name))])

    def caption_file(self, image: Path) -> Path:
        """Return the caption file of an image: the one that is there, or else the one to write."""
        files = [image.with_suffix(ending) for ending in CAPTIONS]
        return next((file for file in files if file.is_file()), files[0])

    def caption(self, image: Path) -> str:
        """Return the caption of an image, "" if it has none."""
        try:
            return self.caption_file(image).read_text("utf-8-sig", errors="replace").strip()
        except OSError:
            return ""

    def set_caption(self, image: Path, text: str) -> None:
        """Write the caption of an image. Raises UserError if the disk refuses."""
        file = self.caption_file(image)
        with reporting_disk_errors(file), atomic_write(file) as part:
            part.write_text(text.strip() + "\n", encoding="utf-8")  # lines may be alternatives

    def replace(self, old: str, new: str) -> int:
        """Replace a text in all captions, and return in how many. Raises UserError."""
        return self.change(lambda caption: caption.replace(old, new)) if old else 0

    def add_word(self, word: str) -> int:
        """Put a word in front of each caption that lacks it, and return in how many. Raises UserError."""
        there = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
        return self.change(lambda text: text if there.search(text) else f"{word}, {text}" if text else word)

    def change(self, change) -> int:
        """Change all captions, and return how many are different now. Raises UserError."""
        count = 0
        for image in self.images():
            before = self.caption(image)
            after = change(before)
            if after != before:
                self.set_caption(image, after)
                count += 1
        return count

    def without_word(self, word: str) -> list[Path]:
        """Return the images whose caption lacks a word."""
        there = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
        return [image for image in self.images() if not there.search(self.caption(image))]


def is_image_name(name: str) -> bool:
    """Return whether a file is an image by its name. Hidden files are those of other programs, or unfinished."""
    return not name.startswith(".") and Path(name).suffix.lower() in ENDINGS


def natural(part: str) -> tuple[int, int, str]:
    """Return a key that sorts numbers by value: 2 before 10."""
    return (0, int(part), "") if part.isdecimal() else (1, 0, part.lower())


def safe_name(name: str) -> str:
    """Return a file name of an upload without anything that has a meaning for a file system."""
    base = unicodedata.normalize("NFC", Path(name.replace("\\", "/")).name)
    kept = re.sub(r"[^\w .()-]", "_", base).strip(" .") or "image"
    stem, suffix = Path(kept).stem.encode()[:LONGEST].decode(errors="ignore"), Path(kept).suffix
    return f"{stem}{suffix[:10]}"


def free_path(folder: Path, name: str) -> Path:
    """Return a path in a folder that does not exist, with a number behind the name if it is taken."""
    path, i = folder / name, 2
    while path.exists():
        path, i = folder / f"{Path(name).stem}-{i}{Path(name).suffix}", i + 1
    return path


def take_upload(folder: Path, name: str, data: bytes) -> Path:
    """Write an uploaded image or caption into a folder, and return its path. Raises UserError if it is neither."""
    suffix = Path(safe_name(name)).suffix.lower()
    if suffix not in (*ENDINGS, *CAPTIONS):
        raise UserError("is neither an image nor a caption (.txt)", name, "Choose images")
    part = folder / f".upload-{uuid4().hex}.part{suffix}"
    with reporting_disk_errors(name):
        folder.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
    if suffix in ENDINGS and not is_image(part):
        part.unlink()
        raise UserError("is not an image that can be read", name, "Choose another file")
    with UPLOADS, reporting_disk_errors(name):  # two may have one name
        return part.rename(free_path(folder, safe_name(name)))


def folders_with_images(folders: Iterable[Path]) -> list[Path]:
    """Return the folders that hold images, among the given ones and those in them."""
    found = []
    for folder in folders:
        inside = sorted(path for path in folder.glob("*") if path.is_dir()) if folder.is_dir() else []
        found += [own for own in (folder, *inside) if DataSet(own).images()]
    return found
