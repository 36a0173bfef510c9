"""Convert caption files and tag files to one metadata file and back, and clean and count tags.

The metadata file has sd-scripts' format: `{image: {"caption": ..., "tags": ...}}`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from neonym.data.caption_files import CaptionFiles, dotted, text_of
from neonym.data.images import find_images
from neonym.data.metadata_files import metadata_rows, names_in
from neonym.errors import DataError, Problem, some
from neonym.io.atomic import atomic_write

Metadata = dict[str, dict[str, object]]
# Matches ^_^ and o_o, whose underscore does not stand for a space
SMILEYS = re.compile(r"^[^\w\s]*_[^\w\s]*$|^(?:\W|[3doOxXuUTt0])_(?:\W|[3doOxXuUTt0])$")


def images_in(folder: Path, recursive: bool) -> list[Path]:
    """Return the images in a folder, and if `recursive` in its subfolders.

    Raises DataError if a folder cannot be read.
    """
    try:
        found = find_images(folder)
        below = sorted(p for p in folder.rglob("*") if p.is_dir()) if recursive else []
        return found + [path for child in below for path in find_images(child)]
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", str(folder), "Name a folder of images") from error


def merge_files(
    folder: Path, known: Metadata, extensions: Mapping[str, str], recursive: bool, full_path: bool
) -> Metadata:
    """Return `known` with the texts of the files beside the images.

    `extensions` maps a field ("caption", "tags") to the extension of its files. Lines of tags become one line.
    Raises DataError if a file cannot be read.
    """
    merged = {name: dict(facts) for name, facts in known.items()}
    by_folder: dict[Path, list[Path]] = {}
    for image in images_in(folder, recursive):
        merged.setdefault(name_of(image, folder, full_path), {})
        by_folder.setdefault(image.parent, []).append(image)
    for parent, images in by_folder.items():
        names = names_in(parent)
        for field, ending in extensions.items():
            files = CaptionFiles([image.name for image in images], names, (dotted(ending),))
            for image in images:
                for name in files.of[image.name][:1]:
                    text = text_of(parent / name, all_lines=True)
                    facts = merged[name_of(image, folder, full_path)]
                    facts[field] = text if field == "caption" else ", ".join(text.split("\n"))
    return merged


def without_repeats(table: Metadata) -> int:
    """Remove tags that merely repeat the caption, and return the number of images changed."""
    repeated = [facts for facts in table.values() if facts.get("tags") and facts["tags"] == facts.get("caption")]
    for facts in repeated:
        del facts["tags"]
    return len(repeated)


def name_of(image: Path, folder: Path, full_path: bool) -> str:
    """Return an image's name in the metadata file: its absolute path, or its path relative to the folder."""
    return str(image.resolve()) if full_path else image.relative_to(folder).as_posix()


def read_metadata_table(file: Path) -> Metadata:
    """Return the table of a metadata file. Raises DataError if it cannot be read."""
    table: Metadata = {}
    for name, facts in metadata_rows(file, refuse):
        if not isinstance(facts, dict):
            raise DataError(f"`{name}` is not an object with caption and tags", str(file))
        table[name] = {key: value for key, value in facts.items() if key != "image_path"}
    return table


def refuse(problem: Problem) -> None:
    """Raise DataError for any problem, even a warning, because writing the file again would lose something."""
    raise DataError(problem.what, problem.where, problem.fix)


def split_table(
    table: Metadata, folder: Path, extensions: Mapping[str, str], overwrite: bool
) -> tuple[int, list[Path]]:
    """Write a file beside each image for each field, and return the number of files and those left unchanged.

    Raises DataError if one file would have to hold both fields, or if a file cannot be written.
    """
    written, left = 0, []
    both = [name for name, facts in table.items() if all(facts.get(field) for field in ("caption", "tags"))]
    if both and len({dotted(ending) for ending in extensions.values()}) < len(extensions):
        what = f"{len(both)} images have a caption and tags, and both would be written to one file ({some(both)})"
        raise DataError(
            what, "--caption_extension, --tags_extension", 'Use two different extensions, or set one of them to ""'
        )
    for name, facts in table.items():
        image = folder / name
        stem = image.with_suffix("") if has_extension(image) else image
        for field, ending in extensions.items():
            text = facts.get(field)
            if not isinstance(text, str):
                continue
            file = stem.with_name(stem.name + dotted(ending))
            if file.exists() and not overwrite:
                left.append(file)
                continue
            write_dataset_text(file, text + "\n")
            written += 1
    return written, left


def has_extension(image: Path) -> bool:
    """Return whether the name of an image includes its extension."""
    return image.is_file() or image.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl")


def write_dataset_text(file: Path, text: str) -> None:
    """Write a text file atomically. Raises DataError if it cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror})", str(file)) from error


def write_metadata_table(table: Metadata, file: Path) -> None:
    """Write a table as `.json`, or as `.jsonl` with one object per line. Raises DataError if it cannot be written."""
    if file.suffix.lower() == ".jsonl":
        lines = [json.dumps({"image_path": name, **facts}, ensure_ascii=False) for name, facts in table.items()]
        write_dataset_text(file, "\n".join(lines) + "\n")
    else:
        write_dataset_text(file, json.dumps(table, indent=2, ensure_ascii=False) + "\n")


def clean_tags(text: str, separator: str = ",", drop: Iterable[str] = ()) -> str:
    """Return each tag once, stripped, with spaces for underscores (except in ^_^), and without the tags in `drop`."""
    unwanted, seen, kept = {tag.strip().lower() for tag in drop}, set[str](), []
    for tag in text.replace("\n", separator).split(separator):
        tag = " ".join(tag.split())
        tag = tag if SMILEYS.match(tag) else " ".join(tag.replace("_", " ").split())
        if tag and tag.lower() not in seen | unwanted:
            seen.add(tag.lower())
            kept.append(tag)
    return f"{separator} ".join(kept)


def clean_table(table: Metadata, separator: str = ",", drop: Iterable[str] = ()) -> Metadata:
    """Return the table with cleaned tags, and captions without blank lines and repeated spaces."""
    drop, cleaned = list(drop), {}
    for name, facts in table.items():
        facts = dict(facts)
        if isinstance(facts.get("tags"), str):
            facts["tags"] = clean_tags(str(facts["tags"]), separator, drop)
        if isinstance(facts.get("caption"), str):
            lines = [" ".join(line.split()) for line in str(facts["caption"]).splitlines()]
            facts["caption"] = "\n".join(line for line in lines if line)
        cleaned[name] = facts
    return cleaned


def count_tags(table: Metadata, field: str = "tags", separator: str = ",") -> Counter[str]:
    """Return the number of images with each tag, in lower case."""
    counts: Counter[str] = Counter()
    for facts in table.values():
        text = str(facts.get(field) or "").replace("\n", separator)
        counts.update({tag.strip().lower() for tag in text.split(separator) if tag.strip()})
    return counts
