"""Files that describe images: metadata files and masks, each matched with its image."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from neonym.data.images import ENDINGS, find_images
from neonym.errors import DataError, Problem, in_one_line, some
from neonym.io.json import is_text, read_json

Reporter = Callable[[Problem], object]


def names_in(folder: Path) -> set[str]:
    """Return the names of the files in a folder; an empty set if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if is_file(entry)}
    except OSError:
        return set()


def is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a file; a link that leads nowhere, or to itself, is not."""
    try:
        return entry.is_file()
    except OSError:
        return False


@dataclass(frozen=True)
class Entry:
    """A frozen record of an image and what is known about it before it is opened."""

    path: Path
    caption: str | None = None  # None: its caption is in a file beside it
    size: tuple[int, int] | None = None


def read_metadata(file: Path, folder: Path | None, separator: str, wildcards: bool, report: Reporter) -> list[Entry]:
    """Return the images of a metadata file (`.json`: name -> facts; `.jsonl`: one object a line), sorted by path.

    A name without an ending is looked for with every known one, because sd-scripts' own tools write such names.
    Raises DataError if the file cannot be read.
    """
    entries, listings, seen = [], dict[Path, dict[str, list[str]]](), set[Path]()
    for name, facts in metadata_rows(file, report):
        if not isinstance(facts, dict):
            report(Problem("error", f"`{name}` is not an object with caption and tags", str(file)))
            continue
        if folder is None and not Path(name).is_absolute():
            report(Problem("error", f"`{name}` is no full path, and there is no image_dir", str(file), "Add image_dir"))
            return []
        caption, tags = (facts.get(key) or "" for key in ("caption", "tags"))
        if not isinstance(caption, str) or not isinstance(tags, str):
            report(Problem("error", f"caption and tags of `{name}` must be texts", str(file)))
            continue
        if "\0" in name or not is_text(name):
            report(Problem("error", f"the name {name!r} is no text", str(file)))
            continue
        path = with_ending((folder or Path()) / name, listings)
        if path in seen:
            report(Problem("warning", f"names {in_one_line(path.name)} twice; the second is passed over", str(file)))
            continue
        seen.add(path)
        entries.append(Entry(path, joined(caption, tags, separator, wildcards), size_of(facts.get("image_size"))))
    return sorted(entries, key=lambda entry: str(entry.path))


def metadata_rows(file: Path, report: Reporter) -> Iterator[tuple[str, object]]:
    """Yield each image's name and facts; report keys that occur twice. Raises DataError if the file cannot be read."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", str(file), "Save it as UTF-8") from error
    except OSError as error:
        fix = escaped(file) or "Check metadata_file, --in_json"
        raise DataError(f"cannot be read ({error.strerror})", str(file), fix) from error
    try:
        if file.suffix.lower() != ".jsonl":
            table = json_in(text, file, report)
            if not isinstance(table, dict):
                raise ValueError("an object of image names is expected")
            yield from table.items()
            return
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                row = json_in(line, file, report)
                if not isinstance(row, dict) or not isinstance(row.get("image_path"), str):
                    raise ValueError(f"line {number} has no image_path")
                yield row["image_path"], row
    except (ValueError, RecursionError) as error:
        raise DataError(f"is no metadata file ({error})", str(file)) from error


def json_in(text: str, file: Path, report: Reporter) -> object:
    """Return the value of a metadata file or of one line. Raises ValueError or RecursionError if it is not JSON."""
    found, twice = read_json(text)
    if twice:
        what = f"has keys twice ({some(twice)}): the last one counts"
        report(Problem("warning", what, str(file), "Leave one of each out"))
    return found


def with_ending(path: Path, listings: dict[Path, dict[str, list[str]]]) -> Path:
    """Return `path`, or the image that it names without an ending. Each folder is listed once, in `listings`."""
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
    """Return the name of an image that differs from the missing `path` in its ending alone, or "" if there is none."""
    endings = [cased for ending in sorted(ENDINGS) for cased in (ending, ending.upper())]
    found = [path.stem + ending for ending in endings if path.name not in names and path.stem + ending in names]
    return found[0] if found else ""


def joined(caption: str, tags: str, separator: str, wildcards: bool) -> str:
    """Return caption and tags as one text, both unchanged; with wildcards, every line of the caption gets the tags."""
    if wildcards:
        tags = tags.replace("\n", separator)
    if not tags:
        return caption
    lines = [line for line in caption.split("\n") if line.strip()] if wildcards else filter(None, [caption])
    return "\n".join(f"{line}{separator}{tags}" for line in lines) or tags


def size_of(value: object) -> tuple[int, int] | None:
    """Return a pair of whole numbers as a size; None for any other value."""
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return value[0], value[1]
    return None


def find_masks(images: list[Path], folder: Path, report: Reporter) -> dict[Path, Path]:
    """Return the mask of each image: the file with its name in `folder`, whatever its ending.

    Images without a mask and masks without an image are reported.
    """
    try:
        masks: dict[str, Path] = {}
        for mask in find_images(folder):
            masks.setdefault(mask.stem, mask)
    except OSError as error:
        fix = escaped(folder) or "Check conditioning_data_dir"
        report(Problem("error", f"cannot be read ({error.strerror})", str(folder), fix))
        return {}
    if images and folder.samefile(images[0].parent):
        what = "holds the images themselves, so the red of each weighs its loss"
        report(Problem("warning", what, str(folder), "Name the folder of the masks in conditioning_data_dir"))
    found = {image: masks[image.stem] for image in images if image.stem in masks}
    lonely = [image.name for image in images if image not in found]
    stems = {image.stem for image in images}
    extra = sorted(mask.name for stem, mask in masks.items() if stem not in stems)
    if lonely:
        what = f"has no mask for {len(lonely)} images ({some(lonely)})"
        report(Problem("error", what, str(folder), "A mask has its image's name"))
    if extra:
        report(Problem("error", f"has masks without image ({some(extra)})", str(folder), "Remove or rename them"))
    return found


def escaped(path: Path) -> str:
    """Return the fix for a path with line breaks or tabs, or "" for any other.

    Most likely, a Windows path's backslash started an escape in the data-set file.
    """
    if str(path).isprintable():
        return ""
    return "In double quotes \\n is a line break and \\t a tab: write paths with / or in 'single quotes'"


def plain_images(names: Sequence[str]) -> Problem:
    """Return the problem that some images are of one colour all over."""
    names = sorted(set(names))
    what = f"{len(names)} of one colour all over: nothing is to be seen in them ({some(names)})"
    return Problem("warning", what, "images", "Are the files broken? Leave them out")
