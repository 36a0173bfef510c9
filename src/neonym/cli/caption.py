"""Run `neonym caption TOOL`, which makes, joins, splits, cleans and counts caption files and metadata files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import tyro
from pydantic import BaseModel, Field

from neonym.config.dataset import Ending
from neonym.config.flags import parse_flags
from neonym.errors import EXIT_USER_ERROR, DataError, UserError, in_one_line

TOOLS = {
    "merge": "caption and tag files beside images -> one metadata file (.json or .jsonl)",
    "split": "a metadata file -> caption and tag files beside the images",
    "clean": "tags of a metadata file once each, without underscores; captions without doubled blanks",
    "count": "in how many images each tag stands",
    "duplicates": "images that look the same",
    "describe": "a sentence for each image, by a model such as BLIP from a local folder",
    "tag": "tags for each image, by a WD tagger (model.onnx, selected_tags.csv) from a local folder",
}


DEFAULT_CAPTIONS = ".caption"


class FolderFlags(BaseModel):
    folder: tyro.conf.Positional[Path] = Field(description="Folder of images.")
    recursive: bool = Field(False, description="Take the images of folders below too.")


class Endings(BaseModel):
    caption_extension: str = Field(DEFAULT_CAPTIONS, description="Ending of files with sentences; empty: none.")
    tags_extension: str = Field(".txt", description="Ending of files with tags; empty: none.")


class MergeFlags(FolderFlags, Endings):
    out: tyro.conf.Positional[Path] = Field(description="Metadata file to write.")
    in_json: Path | None = Field(None, description="Metadata file to add to.")
    full_path: bool = Field(False, description="Name images by their full paths.")


class SplitFlags(Endings):
    in_json: tyro.conf.Positional[Path] = Field(description="Metadata file.")
    folder: tyro.conf.Positional[Path] = Field(description="Folder of the images.")
    overwrite: bool = Field(False, description="Replace files that are there already.")


class CleanFlags(BaseModel):
    in_json: tyro.conf.Positional[Path] = Field(description="Metadata file.")
    out: tyro.conf.Positional[Path] = Field(description="Metadata file to write; may be the same.")
    caption_separator: str = Field(",", min_length=1, description="What stands between tags.")
    drop: tuple[str, ...] = Field((), description="Tags to leave out.")


class CountFlags(BaseModel):
    in_json: tyro.conf.Positional[Path] = Field(description="Metadata file.")
    field: str = Field("tags", description="Count in this field: tags or caption.")
    caption_separator: str = Field(",", min_length=1, description="What stands between tags.")
    top: int = Field(50, ge=1, description="How many to print.")


class WriteFlags(FolderFlags):
    model: Path = Field(description="Local folder of the model.")
    overwrite: bool = Field(False, description="Replace captions that are there already.")


class DescribeFlags(WriteFlags):
    caption_extension: Ending = Field(".caption", description="Ending of the files to write.")
    prefix: str = Field("", description='Put before each sentence, such as "a picture of mychar4, ".')
    prompt: str = Field("", description="Beginning of the sentence that the model goes on from.")
    max_tokens: int = Field(40, ge=1, description="Longest sentence.")
    beams: int = Field(1, ge=1, description="Beams of the search; more are slower and plainer.")
    device: str = Field("cpu", description="Where the model runs: cpu, cuda, ...")


class TagFlags(WriteFlags):
    caption_extension: Ending = Field(".txt", description="Ending of the files to write.")
    prefix: str = Field("", description='Put before the tags, such as "mychar4, ".')
    threshold: float = Field(0.35, ge=0, le=1, description="Least probability of a tag.")
    character_threshold: float = Field(0.85, ge=0, le=1, description="Least probability of a character's name.")


def main(argv: list[str], prog: str) -> int:
    if not argv or argv[0] not in TOOLS:
        wanted = not argv or argv[0] in ("-h", "--help")
        lines = [f"usage: {prog} TOOL [flags]", "", "tools:", *(f"  {n:10} {t}" for n, t in TOOLS.items())]
        print("\n".join(lines), file=sys.stdout if wanted else sys.stderr)
        return 0 if argv and wanted else 2
    model, run = RUNS[argv[0]]
    return run(parse_flags(model, argv[1:], f"{prog} {argv[0]}", TOOLS[argv[0]]))


def merge(flags: MergeFlags) -> int:
    from neonym.data.tools import captions as tools

    known = tools.read_metadata_table(flags.in_json) if flags.in_json else {}
    extensions = endings(flags)
    if len(extensions) == 2 and len({ending.lower() for ending in extensions.values()}) == 1:
        left_out = "tags" if flags.caption_extension != DEFAULT_CAPTIONS else "caption"
        ending = extensions.pop(left_out)
        print(f"{ending} is named for captions and for tags: its files are read once, as {next(iter(extensions))}")
    table = tools.merge_files(flags.folder, known, extensions, flags.recursive, flags.full_path)
    if repeated := tools.without_repeats(table):
        print(f"{repeated} images have tags that are their caption once more: these tags are left out")
    tools.write_metadata_table(table, flags.out)
    missing = [name for name, facts in table.items() if not facts.get("caption") and not facts.get("tags")]
    print(f"{flags.out}: {len(table)} images, {len(missing)} of them without caption and tags {missing[:3] or ''}")
    return 0


def split(flags: SplitFlags) -> int:
    from neonym.data.tools import captions as tools

    written, left = tools.split_table(
        tools.read_metadata_table(flags.in_json), flags.folder, endings(flags), flags.overwrite
    )
    print(f"{written} files written")
    if left:
        print(f"{len(left)} files were there already and were left alone (--overwrite replaces them): {left[0]}, ...")
    return 0


def clean(flags: CleanFlags) -> int:
    from neonym.data.tools import captions as tools

    table = tools.clean_table(tools.read_metadata_table(flags.in_json), flags.caption_separator, flags.drop)
    tools.write_metadata_table(table, flags.out)
    print(f"{flags.out}: {len(table)} images")
    return 0


def count(flags: CountFlags) -> int:
    from neonym.data.tools import captions as tools

    counts = tools.count_tags(tools.read_metadata_table(flags.in_json), flags.field, flags.caption_separator)
    for tag, number in sorted(counts.items(), key=lambda row: (-row[1], row[0]))[: flags.top]:
        print(f"{number:7} {tag}")
    print(f"{len(counts)} tags")
    return 0


def duplicates(flags: FolderFlags) -> int:
    from neonym.data.tools.captions import images_in
    from neonym.data.tools.duplicates import difference_hashes, similar

    paths = images_in(flags.folder, flags.recursive)
    groups = similar(difference_hashes(paths))
    for group in groups:
        print(", ".join(in_one_line(str(path.relative_to(flags.folder))) for path in group))
    print(f"{len(paths)} images, {len(groups)} groups that look the same")
    return 0


def describe(flags: DescribeFlags) -> int:
    from neonym.models.captioners import load_describer

    images = images_of(flags)
    say = load_describer(flags.model, flags.prompt, flags.max_tokens, flags.beams, flags.device)
    return write_each(images, flags, lambda image: flags.prefix + say(image), flags.caption_extension)


def tag(flags: TagFlags) -> int:
    from neonym.data.tools.captions import clean_tags
    from neonym.models.captioners import load_tagger

    images = images_of(flags)
    tagger = load_tagger(flags.model)

    def say(image: Any) -> str:
        return flags.prefix + clean_tags(",".join(tagger(image, flags.threshold, flags.character_threshold)))

    return write_each(images, flags, say, flags.caption_extension)


def images_of(flags: WriteFlags) -> list[Path]:
    """Return the images of the folder, before a model is loaded. Raise DataError if there are none."""
    from neonym.data.tools.captions import images_in

    images = images_in(flags.folder, flags.recursive)
    if not images:
        raise DataError("has no images", str(flags.folder), "Name another folder, or add --recursive")
    return images


def write_each(images: list[Path], flags: WriteFlags, say: Any, ending: str) -> int:
    """Write one file beside each image, and return the exit code. Errors are printed at the end.

    An image that cannot be read is left out. If the model or the disk fails, the others are not tried, and the files
    that are written stay.
    """
    from neonym.data.colour import on_background
    from neonym.data.images import readable, upright
    from neonym.data.tools.captions import write_text_file

    ending = ending if ending.startswith(".") else f".{ending}"
    written, left, wrong = 0, 0, list[UserError]()
    for path in images:
        file = path.with_name(path.stem + ending)
        if file.exists() and not flags.overwrite:
            left += 1
            continue
        try:
            with readable(path) as image:
                pixels = on_background(upright(image), (255, 255, 255))
        except DataError as error:
            wrong.append(error)
            continue
        try:
            write_text_file(file, say(pixels) + "\n")
        except UserError as error:
            wrong.append(error)
            break
        written += 1
    print(f"{written} files written" + (f", {left} were there already (--overwrite replaces them)" if left else ""))
    for error in wrong:
        print(error, file=sys.stderr)
    return EXIT_USER_ERROR if wrong else 0


def endings(flags: Endings) -> dict[str, str]:
    """Return the file ending of each field that has files, by field."""
    named = {"caption": flags.caption_extension, "tags": flags.tags_extension}
    return {field: f".{ending.lstrip('.')}" for field, ending in named.items() if ending}


RUNS: dict[str, tuple[type[BaseModel], Any]] = {
    "merge": (MergeFlags, merge),
    "split": (SplitFlags, split),
    "clean": (CleanFlags, clean),
    "count": (CountFlags, count),
    "duplicates": (FolderFlags, duplicates),
    "describe": (DescribeFlags, describe),
    "tag": (TagFlags, tag),
}
