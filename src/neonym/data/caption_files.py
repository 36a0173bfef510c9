"""Which caption files belong to which images of a folder, and the text in them."""

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
NO_CAPTIONS = ("readme", "license", "licence", "copying", "notice")  # texts about a data set


def text_of(path: Path, all_lines: bool) -> str:
    """Return the first line of a file with captions or templates; with `all_lines`, every line that is not blank.

    Raises DataError if the file is empty or is not text.
    """
    lines = [line.strip() for line in read_text(path).split("\n")]
    return "\n".join(line for line in lines if line) if all_lines else lines[0]


def read_text(path: Path) -> str:
    """Return the text of a file, UTF-8 or UTF-16 with its byte-order mark, with line feeds between its lines.

    Raises DataError if the file cannot be read, is empty or is not text.
    """
    try:
        with path.open("rb", buffering=0) as file:  # twice as fast as text for small files
            data = file.read()
        text = data.decode("utf-16" if data.startswith(UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", str(path), "Save the caption as UTF-8") from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", str(path), "Check its name and permissions") from error
    if "\0" in text:
        raise DataError(
            "is not UTF-8 text: it has zero bytes in it, as UTF-16 has", str(path), "Save the caption as UTF-8"
        )
    if not text:
        fix = "Write the caption, or remove the file: class_tokens is used then"
        raise DataError("is an empty file, not a caption", str(path), fix)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def stem_of(name: str) -> str:
    """Return a file's name without its ending."""
    return os.path.splitext(name)[0]  # noqa: PTH122 - ten times as fast as a Path


def dotted(ending: str) -> str:
    """Return a caption's ending with the dot that it may lack."""
    return ending if ending.startswith(".") else f".{ending}"


def loose(name: str) -> str:
    """Return a name in the form that it shares with names that differ only in case, or in how accents are stored."""
    return normalize("NFC", name).casefold()


@dataclass
class CaptionFiles:
    """The caption files of a folder of images.

    A caption file has its image's name, without its ending or with it (`1.png.txt`); failing that, letters may differ
    in case. An image that sd-scripts' face tool cut out (`name_x_y_width_height`) may use the caption of `name`.
    `names` holds the names of all files of the folder, so that no file is looked for in vain.
    """

    images: Sequence[str]
    names: AbstractSet[str]
    endings: tuple[str, ...] = FOUND_UNASKED
    of: dict[str, list[str]] = field(default_factory=dict)  # image -> its caption files, the one that is used first
    rivals: dict[str, str] = field(default_factory=dict)  # file -> the one that is read instead: their case differs

    def __post_init__(self) -> None:
        exact = {image: [name for name in self.candidates(image) if name in self.names] for image in self.images}
        taken = {name for found in exact.values() for name in found}
        others: dict[str, list[str]] = {}
        for name in sorted(self.names - taken):
            if name.lower().endswith(tuple(ending.lower() for ending in self.endings)):
                others.setdefault(loose(name), []).append(name)
        for image, found in exact.items():
            alike = (
                [name for wanted in self.candidates(image) for name in others.get(loose(wanted), ())] if others else []
            )
            self.of[image] = [*found, *dict.fromkeys(alike)]
            by_name: dict[str, str] = {}
            for name in self.of[image]:
                used = by_name.setdefault(loose(name), name)
                if used != name:
                    self.rivals[name] = used

    def candidates(self, image: str) -> Iterator[str]:
        """Yield the names that the image's caption file may have, the best first."""
        stem = stem_of(image)
        stems = [stem, image, *([stem.rsplit("_", 4)[0]] if face_of(stem) else ())]
        return (f"{stem}{ending}" for stem in stems for ending in self.endings)

    def used(self, image: str, endings: tuple[str, ...]) -> str | None:
        """Return the caption file of the image that is read if only files with these endings are; None without one."""
        return next((name for name in self.of[image] if name.lower().endswith(endings)), None)

    def renamed(self, files: Iterable[str]) -> list[str]:
        """Return those of `files` whose names are not exactly an image's."""
        stems = {stem_of(image) for image in self.images}
        stems |= {stem.rsplit("_", 4)[0] for stem in stems if face_of(stem)}
        exact = {stem + ending for stem in stems for ending in self.endings}
        return [name for name in files if name not in exact]

    def lonely(self) -> list[str]:
        """Return files with a caption's ending that belong to no image."""
        owned = {name for found in self.of.values() for name in found}
        unread = {stem_of(name) for name in self.names if name.lower().endswith(tuple(NOT_READ))}
        endings = tuple(ending.lower() for ending in self.endings)
        return sorted(
            name for name in self.names - owned
            if name.lower().endswith(endings) and not name.startswith(".")
            and not name.lower().startswith(NO_CAPTIONS) and stem_of(name) not in unread
        )  # fmt: skip

    def other_endings(self, images: Iterable[str]) -> list[str]:
        """Return the endings of other files that have the names of these images: their captions may be there."""
        stems, known = {stem_of(image) for image in images}, (*ENDINGS, *NOT_READ, ".npz", ".safetensors", ".json")
        found = {Path(name).suffix for name in self.names if stem_of(name) in stems}
        return sorted(ending for ending in found if ending and ending.lower() not in known)


def meant_for(lonely: Sequence[str], images: Sequence[str]) -> str:
    """Return the first of some lonely caption files, each with the image whose name is nearly the same."""
    stems = {stem_of(image): image for image in images}
    near = {name: nearest_image(stem_of(name), stems) for name in lonely[:3]}
    return some([name + (f" for {near[name]}?" if near.get(name) else "") for name in lonely])


def nearest_image(stem: str, images: Mapping[str, str]) -> str | None:
    """Return the image (by its stem) that a caption file's stem was most likely meant for."""
    wanted = letters_of(stem)
    for known, image in images.items():
        begun = stem.lower().startswith(known.lower()) and not stem[len(known) : len(known) + 1].isalnum()
        if begun or (wanted and wanted == letters_of(known)):
            return image
    near = get_close_matches(stem, images, n=1, cutoff=0.8)
    return images[near[0]] if near else None


def letters_of(stem: str) -> str:
    """Return a name's letters and digits, without zeros in front: what stays the same when a name is tidied."""
    return "".join(c for c in loose(stem) if c.isalnum()).lstrip("0")


def gathered(problems: Iterable[Problem], place: Path) -> Iterator[Problem]:
    """Yield problems of caption files; those that say the same become one, with their number and three names."""
    alike: dict[tuple[str, str, str], list[Problem]] = {}
    for problem in problems:
        alike.setdefault((problem.severity, problem.what, problem.fix), []).append(problem)
    for (_, what, _), members in alike.items():
        if len(members) == 1:
            yield members[0]
            continue
        names = [Path(problem.where).name for problem in members]
        yield replace(members[0], what=f"each of {len(names)} caption files {what} ({some(names)})", where=str(place))
