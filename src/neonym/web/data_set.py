"""A folder of images with their captions, as the page shows and edits it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from neonym import UserError
from neonym.config.sources import folder_subsets
from neonym.errors import counted
from neonym.io.atomic import atomic_write
from neonym.web.disk import reporting_disk_errors
from neonym.web.home import Home, plain
from neonym.web.images import ENDINGS

CAPTIONS = (".caption", ".txt")  # in the order in which training looks for them


@dataclass
class DataSet:
    """A folder of images, or of `N_name` folders with images, of which each counts N times.

    Captions are read when they are shown, and written beside the image. Nothing is read that `allows` refuses: links may
    lead anywhere.
    """

    folder: Path
    allows: Callable[[Path], bool]
    caption_extension: str = ""  # "": what training looks for by itself

    def parts(self) -> dict[Path, int]:
        """Return the folders with its images, and how many times each image in them counts."""
        found = folder_subsets(self.folder, "", False, [])
        parts = {Path(part["image_dir"]): int(part.get("num_repeats", 1)) for part in found}
        return {folder: repeats for folder, repeats in parts.items() if self.allows(folder)}

    def images(self) -> list[Path]:
        """Return the images of the data set, by name; none if it cannot be read."""
        return [image for part in self.parts() for image in images_in(part)]

    def title(self, image: Path) -> str:
        """Return what an image is called: its name, with that of its `N_name` folder."""
        return plain(str(image.relative_to(self.folder)))

    def name_of_part(self, image: Path) -> str:
        """Return the text that an image without a caption has from its `N_name` folder; "" in a plain folder."""
        return "" if image.parent == self.folder else image.parent.name.partition("_")[2]

    def summary(self) -> str:
        """Return its name, with its `N_name` folders and how many times each of their images counts."""
        parts = (
            f"{part.name} ({counted(repeats, 'time')})" for part, repeats in self.parts().items() if part != self.folder
        )
        return plain(": ".join(filter(None, (self.folder.name, ", ".join(parts)))))

    def new_extension(self, part: Path) -> str:
        """Return the extension of new captions: in `N_name` folders .txt files may not be read, as in sd-scripts."""
        given = self.caption_extension and f".{self.caption_extension.removeprefix('.')}"
        return given or CAPTIONS[1 if part == self.folder else 0]

    def caption_file(self, image: Path) -> Path:
        """Return the caption file of an image: the one that is read, or else the one to write."""
        new = image.with_suffix(self.new_extension(image.parent))
        files = [new] if self.caption_extension else [image.with_suffix(ending) for ending in CAPTIONS]
        return next((file for file in files if file.is_file()), new)

    def caption(self, image: Path) -> str:
        """Return the caption of an image, "" if it has none."""
        file = self.caption_file(image)
        try:
            return "" if self.is_elsewhere(file) else file.read_text("utf-8-sig", errors="replace").strip()
        except OSError:
            return ""

    def is_elsewhere(self, file: Path) -> bool:
        """Return whether a file is a link to one that the page may not read."""
        return file.is_symlink() and not self.allows(file)

    def text(self, image: Path) -> str:
        """Return the text that an image is learned with: its caption, or else the name of its `N_name` folder."""
        return self.caption(image) or self.name_of_part(image)

    def set_caption(self, image: Path, text: str) -> None:
        """Write the caption of an image. Raises UserError if the disk refuses, or if it is elsewhere."""
        file = self.caption_file(image)
        if self.is_elsewhere(file):
            raise UserError("is a link to outside of the folders of this page", str(file), "Replace it by a file")
        with reporting_disk_errors(file), atomic_write(file) as part:
            part.write_text(text.strip() + "\n", encoding="utf-8")  # lines may be alternatives

    def replace(self, old: str, new: str) -> int:
        """Replace a text in all captions, and return in how many. Raises UserError."""
        return self.change(lambda image: self.caption(image).replace(old, new)) if old else 0

    def add_word(self, word: str) -> int:
        """Put a word in front of each text that lacks it, and return in how many. Raises UserError.

        The name of an `N_name` folder becomes the caption of its images, as it is none if they have masks.
        """

        def with_word(image: Path) -> str:
            text = self.text(image)
            return text if has_word(text, word) else f"{word}, {text}" if text else word

        return self.change(with_word)

    def change(self, new_caption: Callable[[Path], str]) -> int:
        """Give all images new captions, and return how many are different now. Raises UserError."""
        count = 0
        for image in self.images():
            after = new_caption(image)
            if after != self.caption(image) and not self.is_elsewhere(self.caption_file(image)):
                self.set_caption(image, after)
                count += 1
        return count

    def without_word(self, word: str) -> list[Path]:
        """Return the images whose text lacks a word."""
        return [image for image in self.images() if not has_word(self.text(image), word)]


def has_word(text: str, word: str) -> bool:
    """Return whether a text contains a word, in any case."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def images_in(folder: Path) -> list[Path]:
    """Return the images in a folder, with numbers in their names in order; none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            found = [Path(entry.path) for entry in entries if is_image_name(entry.name)]
    except OSError:
        return []
    return sorted(found, key=lambda path: [*map(natural, re.split(r"(\d+)", path.name))])


def is_image_name(name: str) -> bool:
    """Return whether a file is an image by its name. Hidden files are those of other programs, or unfinished."""
    return not name.startswith(".") and Path(name).suffix.lower() in ENDINGS


def natural(part: str) -> tuple[int, int, str]:
    """Return a key that sorts numbers by value: 2 before 10."""
    return (0, int(part), "") if part.isdecimal() else (1, 0, part.lower())


def folders_with_images(home: Home) -> list[Path]:
    """Return the folders that hold images, among those that the user named and those in them."""
    found = []
    for folder in home.named("datasets"):
        inside = sorted(path for path in folder.glob("*") if path.is_dir()) if folder.is_dir() else []
        found += [own for own in (folder, *inside) if DataSet(own, home.allows).images()]
    return [own for own in found if str(own) == plain(str(own))]  # a config file needs Unicode
