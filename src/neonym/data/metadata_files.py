"""Read metadata files and find masks, and match them with images."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from neonym.data.images import ENDINGS, find_images
from neonym.errors import DataError, Problem, counted, in_one_line, some
from neonym.io.json import is_text, read_json

Reporter = Callable[[Problem], object]


def names_in(folder: Path) -> set[str]:
    """Return the names of the files in a folder, or an empty set if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if is_file(entry)}
    except OSError:
        return set()


def is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a file, which a broken or circular link is not."""
    try:
        return entry.is_file()
    except OSError:
        return False


@dataclass(frozen=True)
class Entry:
    """An image and what is known about it before it is opened."""

    path: Path
    caption: str | None = None  # None: its caption may be in a file beside it
    size: tuple[int, int] | None = None


def read_metadata(file: Path, folder: Path | None, separator: str, wildcards: bool, report: Reporter) -> list[Entry]:
    """Return the images in a metadata file, sorted by path.

    A `.json` file is an object of image names; a `.jsonl` file has one object per line. A name without an extension is
    searched with every known one, because sd-scripts' own tools write such names. Problems of single images are passed
    to `report`. Raises DataError if the file cannot be read.
    """
    entries, listings, seen = [], dict[Path, dict[str, list[str]]](), set[Path]()
    for name, facts in metadata_rows(file, report):
        if not isinstance(facts, dict):
            report(Problem("error", f"`{name}` is not an object with caption and tags", str(file)))
            continue
        if folder is None and not Path(name).is_absolute():
            report(
                Problem(
                    "error", f"`{name}` is not an absolute path, and there is no image_dir", str(file), "Add image_dir"
                )
            )
            return []
        caption, tags = (facts.get(key) or "" for key in ("caption", "tags"))
        if not isinstance(caption, str) or not isinstance(tags, str):
            report(Problem("error", f"caption and tags of `{name}` must be strings", str(file)))
            continue
        if "\0" in name or not is_text(name):
            report(Problem("error", f"the name {name!r} is not valid text", str(file)))
            continue
        path = with_ending((folder or Path()) / name, listings)
        if path in seen:
            report(Problem("warning", f"names {in_one_line(path.name)} twice; the second entry is ignored", str(file)))
            continue
        seen.add(path)
        entries.append(Entry(path, with_tags(caption, tags, separator, wildcards), size_in(facts.get("image_size"))))
    return sorted(entries, key=lambda entry: str(entry.path))


def metadata_rows(file: Path, report: Reporter) -> Iterator[tuple[str, object]]:
    """Yield the name and the facts of each image.

    Duplicate keys are reported. Raises DataError if the file is invalid.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", str(file), "Save it as UTF-8") from error
    except OSError as error:
        fix = escape_hint(file) or "Check metadata_file, --in_json"
        raise DataError(f"cannot be read ({error.strerror})", str(file), fix) from error
    try:
        if file.suffix.lower() != ".jsonl":
            table = json_in(text, file, report)
            if not isinstance(table, dict):
                raise ValueError("it must be an object of image names")
            yield from table.items()
            return
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                row = json_in(line, file, report)
                if not isinstance(row, dict) or not isinstance(row.get("image_path"), str):
                    raise ValueError(f"line {number} has no image_path")
                yield row["image_path"], row
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not a metadata file ({error})", str(file)) from error


def json_in(text: str, file: Path, report: Reporter) -> object:
    """Return the value of JSON in a metadata file. Raises ValueError or RecursionError if it is not JSON."""
    found, twice = read_json(text)
    if twice:
        what = f"has duplicate keys ({some(twice)}): the last one counts"
        report(Problem("warning", what, str(file), "Remove all but one of each"))
    return found


def with_ending(path: Path, listings: dict[Path, dict[str, list[str]]]) -> Path:
    """Return `path` with the extension of the existing image. `listings` caches the images of each folder."""
    if path.suffix.lower() in ENDINGS:
        return path
    if path.parent not in listings:
        names: dict[str, list[str]] = {}
        if path.parent.is_dir():
            for found in find_images(path.parent):
                names.setdefault(found.stem, []).append(found.name)
        listings[path.parent] = names
    return path.with_name(min(listings[path.parent].get(path.name, [path.name])))


def with_other_ending(path: Path, names: Container[str]) -> str:
    """Return the name of an existing image that differs from the missing `path` only in its extension, or ""."""
    endings = [cased for ending in sorted(ENDINGS) for cased in (ending, ending.upper())]
    found = [path.stem + ending for ending in endings if path.name not in names and path.stem + ending in names]
    return found[0] if found else ""


def with_tags(caption: str, tags: str, separator: str, wildcards: bool) -> str:
    """Return caption and tags as one text, both unchanged. With wildcards, the tags are added to every line."""
    if wildcards:
        tags = tags.replace("\n", separator)
    if not tags:
        return caption
    lines = [line for line in caption.split("\n") if line.strip()] if wildcards else filter(None, [caption])
    return "\n".join(f"{line}{separator}{tags}" for line in lines) or tags


def size_in(value: object) -> tuple[int, int] | None:
    """Return a pair of integers as a size, or None for any other value."""
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return value[0], value[1]
    return None


def find_masks(images: list[Path], folder: Path, report: Reporter) -> dict[Path, Path]:
    """Return the mask of each image: the file with the same name in `folder`, with any image extension.

    Images without a mask and masks without an image are reported.
    """
    try:
        masks: dict[str, Path] = {}
        for mask in find_images(folder):
            masks.setdefault(mask.stem, mask)
    except OSError as error:
        fix = escape_hint(folder) or "Check conditioning_data_dir"
        report(Problem("error", f"cannot be read ({error.strerror})", str(folder), fix))
        return {}
    if images and folder.samefile(images[0].parent):
        what = "holds the images themselves, so the red channel of each image would weight its own loss"
        report(Problem("warning", what, str(folder), "Set conditioning_data_dir to the folder of the masks"))
    found = {image: masks[image.stem] for image in images if image.stem in masks}
    missing = [image.name for image in images if image not in found]
    stems = {image.stem for image in images}
    extra = sorted(mask.name for stem, mask in masks.items() if stem not in stems)
    if missing:
        what = f"has no mask for {len(missing)} images ({some(missing)})"
        report(Problem("error", what, str(folder), "A mask must have the name of its image"))
    if extra:
        report(Problem("error", f"has masks without an image ({some(extra)})", str(folder), "Remove or rename them"))
    return found


def escape_hint(path: Path) -> str:
    """Return the fix for a path with line breaks or tabs, or "" for any other path.

    Most likely, a backslash in a Windows path started an escape sequence in the dataset file.
    """
    if str(path).isprintable():
        return ""
    return "In double quotes \\n is a line break and \\t a tab: write paths with / or in 'single quotes'"


def one_colour_problem(names: Sequence[str]) -> Problem:
    """Return the problem that some images have only one colour."""
    names = sorted(set(names))
    what = f"{counted(len(names), 'image')} of a single colour, with nothing to see ({some(names)})"
    return Problem("warning", what, "images", "If the files are damaged, remove them")
