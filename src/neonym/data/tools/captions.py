"""Caption files and tag files to one metadata file and back; tags cleaned and counted.

The metadata file is sd-scripts' kind (`{picture: {"caption": ..., "tags": ...}}`), its names those that `read_metadata` opens.
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
SMILEYS = re.compile(
    r"^[^\w\s]*_[^\w\s]*$|^(?:\W|[3doOxXuUTt0])_(?:\W|[3doOxXuUTt0])$"
)  # ^_^, o_o: their line is no blank


def pictures_in(folder: Path, recursive: bool) -> list[Path]:
    """Pictures of a folder, and of those below it. Raises DataError."""
    try:
        found = find_images(folder)
        below = sorted(p for p in folder.rglob("*") if p.is_dir()) if recursive else []
        return found + [path for child in below for path in find_images(child)]
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", str(folder), "Name a folder of pictures") from error


def merge(folder: Path, known: Metadata, extensions: Mapping[str, str], recursive: bool, full_path: bool) -> Metadata:
    """`known` with what stands in files beside the pictures: field ("caption", "tags") -> ending of its files.

    Lines of tags become one. Raises DataError for a file that cannot be read.
    """
    merged = {name: dict(facts) for name, facts in known.items()}
    by_folder: dict[Path, list[Path]] = {}
    for picture in pictures_in(folder, recursive):
        merged.setdefault(name_of(picture, folder, full_path), {})
        by_folder.setdefault(picture.parent, []).append(picture)
    for parent, pictures in by_folder.items():
        names = names_in(parent)
        for field, ending in extensions.items():
            files = CaptionFiles([picture.name for picture in pictures], names, (dotted(ending),))
            for picture in pictures:
                for name in files.of[picture.name][:1]:
                    text = text_of(parent / name, all_lines=True)
                    facts = merged[name_of(picture, folder, full_path)]
                    facts[field] = text if field == "caption" else ", ".join(text.split("\n"))
    return merged


def without_repeats(table: Metadata) -> int:
    """Take tags out that are the caption once more: they would be trained on twice. -> of how many pictures"""
    repeated = [facts for facts in table.values() if facts.get("tags") and facts["tags"] == facts.get("caption")]
    for facts in repeated:
        del facts["tags"]
    return len(repeated)


def name_of(picture: Path, folder: Path, full_path: bool) -> str:
    return str(picture.resolve()) if full_path else picture.relative_to(folder).as_posix()


def read(file: Path) -> Metadata:
    """Raises DataError."""
    table: Metadata = {}
    for name, facts in metadata_rows(file, refuse):
        if not isinstance(facts, dict):
            raise DataError(f"`{name}` is not an object with caption and tags", str(file))
        table[name] = {key: value for key, value in facts.items() if key != "image_path"}
    return table


def refuse(problem: Problem) -> None:
    """What is a warning elsewhere: a file that is written anew would lose something. Raises DataError."""
    raise DataError(problem.what, problem.where, problem.fix)


def split(table: Metadata, folder: Path, extensions: Mapping[str, str], overwrite: bool) -> tuple[int, list[Path]]:
    """A file beside each picture for each field. -> (files written, files that were there and were left alone)

    Raises DataError where one file would have to hold both.
    """
    written, left = 0, []
    both = [name for name, facts in table.items() if all(facts.get(field) for field in ("caption", "tags"))]
    if both and len({dotted(ending) for ending in extensions.values()}) < len(extensions):
        what = f"{len(both)} pictures have a caption and tags, and both would be written to one file ({some(both)})"
        raise DataError(what, "--caption_extension, --tags_extension", 'Name two endings, or write one of them as ""')
    for name, facts in table.items():
        picture = folder / name
        stem = picture.with_suffix("") if find_ending(picture) else picture
        for field, ending in extensions.items():
            text = facts.get(field)
            if not isinstance(text, str):
                continue
            file = stem.with_name(stem.name + dotted(ending))
            if file.exists() and not overwrite:
                left.append(file)
                continue
            write_text(file, text + "\n")
            written += 1
    return written, left


def find_ending(picture: Path) -> bool:
    """Whether the name of a picture carries its ending."""
    return picture.is_file() or picture.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl")


def write_text(file: Path, text: str) -> None:
    """Complete or absent. Raises DataError."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror})", str(file)) from error


def write(table: Metadata, file: Path) -> None:
    """As `.json`, or `.jsonl` with an object a line. Raises DataError."""
    if file.suffix.lower() == ".jsonl":
        lines = [json.dumps({"image_path": name, **facts}, ensure_ascii=False) for name, facts in table.items()]
        write_text(file, "\n".join(lines) + "\n")
    else:
        write_text(file, json.dumps(table, indent=2, ensure_ascii=False) + "\n")


def clean_tags(text: str, separator: str = ",", drop: Iterable[str] = ()) -> str:
    """Each tag once, without blanks around it, with blanks for underscores (but in ^_^), without those to `drop`."""
    unwanted, seen, kept = {tag.strip().lower() for tag in drop}, set[str](), []
    for tag in text.replace("\n", separator).split(separator):
        tag = " ".join(tag.split())
        tag = tag if SMILEYS.match(tag) else " ".join(tag.replace("_", " ").split())
        if tag and tag.lower() not in seen | unwanted:
            seen.add(tag.lower())
            kept.append(tag)
    return f"{separator} ".join(kept)


def clean(table: Metadata, separator: str = ",", drop: Iterable[str] = ()) -> Metadata:
    """Tags cleaned; captions without blank lines and doubled blanks."""
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
    """In how many pictures each tag stands, in lower case."""
    counts: Counter[str] = Counter()
    for facts in table.values():
        text = str(facts.get(field) or "").replace("\n", separator)
        counts.update({tag.strip().lower() for tag in text.split(separator) if tag.strip()})
    return counts
