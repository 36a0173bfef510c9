"""Match caption files with the images of a folder, and read them."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from unicodedata import normalize

from neonym.data.images import ENDINGS, NOT_READ, face_of
from neonym.errors import DataError, Problem, some

FOUND_UNASKED = (".caption", ".txt")
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
NO_CAPTIONS = ("readme", "license", "licence", "copying", "notice")  # files about a dataset, by their first letters


def text_of(path: Path, all_lines: bool) -> str:
    """Return the first line of a caption file, or with `all_lines` all lines that are not blank.

    Raises DataError if the file is empty or is not text.
    """
    lines = [line.strip() for line in read_text(path).split("\n")]
    return "\n".join(line for line in lines if line) if all_lines else lines[0]


def read_text(path: Path) -> str:
    """Return the text of a file (UTF-8, or UTF-16 with a byte-order mark), with line feeds between its lines.

    Raises DataError if the file cannot be read, is empty or is not text.
    """
    try:
        with path.open("rb", buffering=0) as file:  # for small files, twice as fast as text mode
            data = file.read()
        text = data.decode("utf-16" if data.startswith(UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", str(path), "Save the caption as UTF-8") from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", str(path), "Check its name and permissions") from error
    if "\0" in text:
        raise DataError(
            "is not UTF-8 text: it contains zero bytes, like UTF-16 text", str(path), "Save the caption as UTF-8"
        )
    if not text:
        fix = "Write the caption, or remove the file so that class_tokens is used"
        raise DataError("is an empty file, not a caption", str(path), fix)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def stem_of(name: str) -> str:
    """Return a file name without its extension."""
    return os.path.splitext(name)[0]  # noqa: PTH122 - ten times as fast as a Path


def dotted(ending: str) -> str:
    """Return a file extension with its dot, which may be missing."""
    return ending if ending.startswith(".") else f".{ending}"


def loose(name: str) -> str:
    """Return a normalised name, equal for names that differ only in case or in the encoding of accents."""
    return normalize("NFC", name).casefold()


@dataclass
class CaptionFiles:
    """The caption files of the images in a folder.

    A caption file has the name of its image, without or with the extension (`1.png.txt`); if there is none, letters may
    differ in case. An image from sd-scripts' face tool (`name_x_y_width_height`) may use the caption of `name`. `names`
    holds the names of all files in the folder, so that the disk is not searched.
    """

    images: Sequence[str]
    names: AbstractSet[str]
    endings: tuple[str, ...] = FOUND_UNASKED
    of: dict[str, list[str]] = field(default_factory=dict)  # image -> its caption files, the preferred one first
    # File -> the file that is read instead: their names differ in case
    rivals: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        exact = {image: [name for name in self.candidates(image) if name in self.names] for image in self.images}
        taken = {name for found in exact.values() for name in found}
        others: dict[str, list[str]] = {}
        for name in sorted(self.names - taken):
            if name.lower().endswith(tuple(ending.lower() for ending in self.endings)):
                others.setdefault(loose(name), []).append(name)
        for image, found in exact.items():
            similar = (
                [name for wanted in self.candidates(image) for name in others.get(loose(wanted), ())] if others else []
            )
            self.of[image] = [*found, *dict.fromkeys(similar)]
            by_name: dict[str, str] = {}
            for name in self.of[image]:
                used = by_name.setdefault(loose(name), name)
                if used != name:
                    self.rivals[name] = used

    def candidates(self, image: str) -> Iterator[str]:
        """Yield the possible names of an image's caption file, in order of preference."""
        stem = stem_of(image)
        stems = [stem, image, *([stem.rsplit("_", 4)[0]] if face_of(stem) else ())]
        return (f"{stem}{ending}" for stem in stems for ending in self.endings)

    def used(self, image: str, endings: tuple[str, ...]) -> str | None:
        """Return the caption file of an image that is read if only these extensions are read, or None."""
        return next((name for name in self.of[image] if name.lower().endswith(endings)), None)

    def inexact(self, files: Iterable[str]) -> list[str]:
        """Return those of `files` whose names match no image exactly."""
        stems = {stem_of(image) for image in self.images}
        stems |= {stem.rsplit("_", 4)[0] for stem in stems if face_of(stem)}
        exact = {stem + ending for stem in stems for ending in self.endings}
        return [name for name in files if name not in exact]

    def orphans(self) -> list[str]:
        """Return the files with a caption extension that belong to no image."""
        owned = {name for found in self.of.values() for name in found}
        unread = {stem_of(name) for name in self.names if name.lower().endswith(tuple(NOT_READ))}
        endings = tuple(ending.lower() for ending in self.endings)
        return sorted(
            name for name in self.names - owned
            if name.lower().endswith(endings) and not name.startswith(".")
            and not name.lower().startswith(NO_CAPTIONS) and stem_of(name) not in unread
        )  # fmt: skip

    def other_endings(self, images: Iterable[str]) -> list[str]:
        """Return the extensions of other files named like these images, which may hold their captions."""
        stems, known = {stem_of(image) for image in images}, (*ENDINGS, *NOT_READ, ".npz", ".safetensors", ".json")
        found = {Path(name).suffix for name in self.names if stem_of(name) in stems}
        return sorted(ending for ending in found if ending and ending.lower() not in known)


def with_likely_images(orphans: Sequence[str], images: Sequence[str]) -> str:
    """Return a list of the first caption files without an image, each with the image of the most similar name."""
    stems = {stem_of(image): image for image in images}
    near = {name: nearest_image(stem_of(name), stems) for name in orphans[:3]}
    return some([name + (f" for {near[name]}?" if near.get(name) else "") for name in orphans])


def nearest_image(stem: str, images: Mapping[str, str]) -> str | None:
    """Return the image that a caption file was most likely meant for, or None. `images` maps stems to images."""
    wanted = letters_of(stem)
    for known, image in images.items():
        begun = stem.lower().startswith(known.lower()) and not stem[len(known) : len(known) + 1].isalnum()
        if begun or (wanted and wanted == letters_of(known)):
            return image
    near = get_close_matches(stem, images, n=1, cutoff=0.8)
    return images[near[0]] if near else None


def letters_of(stem: str) -> str:
    """Return the letters and digits of a name, without leading zeros, which similar names share."""
    return "".join(c for c in loose(stem) if c.isalnum()).lstrip("0")


def grouped_problems(problems: Iterable[Problem], folder: Path) -> Iterator[Problem]:
    """Yield problems of caption files, with equal ones combined into one that has their number and three names."""
    groups: dict[tuple[str, str, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.severity, problem.what, problem.fix), []).append(problem)
    for (_, what, _), members in groups.items():
        if len(members) == 1:
            yield members[0]
            continue
        names = [Path(problem.where).name for problem in members]
        yield replace(members[0], what=f"each of {len(names)} caption files {what} ({some(names)})", where=str(folder))
