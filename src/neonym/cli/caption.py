"""Run `neonym caption TOOL`, which makes, joins, splits, cleans and counts caption files and metadata files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from pydantic import BaseModel, Field

from neonym.config.dataset import Ending
from neonym.config.flags import parse_flags
from neonym.errors import EXIT_USER_ERROR, DataError, UserError, counted, in_one_line

if TYPE_CHECKING:
    from PIL.Image import Image

TOOLS = {
    "merge": "collect the caption and tag files beside images in one metadata file (.json or .jsonl)",
    "split": "write a metadata file's captions and tags to files beside the images",
    "clean": "clean a metadata file: remove duplicate tags, underscores in tags, and repeated spaces in captions",
    "count": "count the images in which each tag occurs",
    "duplicates": "find images that look the same",
    "describe": "write a sentence for each image with a model such as BLIP from a local folder",
    "tag": "write tags for each image with a WD tagger (model.onnx, selected_tags.csv) from a local folder",
}
DEFAULT_CAPTIONS = ".caption"


class FolderFlags(BaseModel):
    folder: tyro.conf.Positional[Path] = Field(description="Folder of images.")
    recursive: bool = Field(False, description="Include the images in subfolders.")


class Endings(BaseModel):
    caption_extension: str = Field(DEFAULT_CAPTIONS, description="Extension of files with sentences; empty: none.")
    tags_extension: str = Field(".txt", description="Extension of files with tags; empty: none.")


class MergeFlags(FolderFlags, Endings):
    out: tyro.conf.Positional[Path] = Field(description="Metadata file to write.")
    in_json: Path | None = Field(None, description="Metadata file to add to.")
    full_path: bool = Field(False, description="Identify images by their full paths.")


class SplitFlags(Endings):
    in_json: tyro.conf.Positional[Path] = Field(description="Metadata file.")
    folder: tyro.conf.Positional[Path] = Field(description="Folder of the images.")
    overwrite: bool = Field(False, description="Replace files that exist already.")


class CleanFlags(BaseModel):
    in_json: tyro.conf.Positional[Path] = Field(description="Metadata file.")
    out: tyro.conf.Positional[Path] = Field(description="Metadata file to write; it may be the same file.")
    caption_separator: str = Field(",", min_length=1, description="Separator between tags.")
    drop: tuple[str, ...] = Field((), description="Tags to leave out.")


class CountFlags(BaseModel):
    in_json: tyro.conf.Positional[Path] = Field(description="Metadata file.")
    field: str = Field("tags", description="Count in this field: tags or caption.")
    caption_separator: str = Field(",", min_length=1, description="Separator between tags.")
    top: int = Field(50, ge=1, description="How many tags to print.")


class WriteFlags(FolderFlags):
    model: Path = Field(description="Local folder with the model.")
    overwrite: bool = Field(False, description="Replace captions that exist already.")


class DescribeFlags(WriteFlags):
    caption_extension: Ending = Field(".caption", description="Extension of the files to write.")
    prefix: str = Field("", description='Text to put before each sentence, such as "a picture of mychar4, ".')
    prompt: str = Field("", description="Beginning of the sentence, which the model continues.")
    max_tokens: int = Field(40, ge=1, description="Longest sentence, in tokens.")
    beams: int = Field(1, ge=1, description="Beams of the search; more beams are slower and produce plainer sentences.")
    device: str = Field("cpu", description="Device that the model runs on: cpu, cuda, ...")


class TagFlags(WriteFlags):
    caption_extension: Ending = Field(".txt", description="Extension of the files to write.")
    prefix: str = Field("", description='Text to put before the tags, such as "mychar4, ".')
    threshold: float = Field(0.35, ge=0, le=1, description="Lowest probability of a tag.")
    character_threshold: float = Field(0.85, ge=0, le=1, description="Lowest probability of a character's name.")


def main(argv: list[str], prog: str) -> int:
    """Run the tool that the first argument names, and return the exit code."""
    if not argv or argv[0] not in TOOLS:
        is_help = not argv or argv[0] in ("-h", "--help")
        lines = [f"usage: {prog} TOOL [flags]", "", "tools:", *(f"  {n:10} {t}" for n, t in TOOLS.items())]
        print("\n".join(lines), file=sys.stdout if is_help else sys.stderr)
        return 0 if argv and is_help else 2
    model, run = RUNNERS[argv[0]]
    return run(parse_flags(model, argv[1:], f"{prog} {argv[0]}", TOOLS[argv[0]]))


def run_merge(flags: MergeFlags) -> int:
    """Collect caption and tag files in a metadata file, and return the exit code."""
    from neonym.data.tools import captions as tools

    known = tools.read_metadata_table(flags.in_json) if flags.in_json else {}
    extensions = endings_by_field(flags)
    if len(extensions) == 2 and len({ending.lower() for ending in extensions.values()}) == 1:
        left_out = "tags" if flags.caption_extension != DEFAULT_CAPTIONS else "caption"
        ending = extensions.pop(left_out)
        print(
            f"{ending} is the extension of both captions and tags: its files are read once, as {next(iter(extensions))}"
        )
    table = tools.merge_files(flags.folder, known, extensions, flags.recursive, flags.full_path)
    if repeated := tools.without_repeats(table):
        print(f"tags that repeat the caption are left out of {counted(repeated, 'image')}")
    tools.write_metadata_table(table, flags.out)
    missing = [name for name, facts in table.items() if not facts.get("caption") and not facts.get("tags")]
    print(f"{flags.out}: {len(table)} images, {len(missing)} of them without captions and tags {missing[:3] or ''}")
    return 0


def run_split(flags: SplitFlags) -> int:
    """Write the captions and tags of a metadata file to files, and return the exit code."""
    from neonym.data.tools import captions as tools

    written, left = tools.split_table(
        tools.read_metadata_table(flags.in_json), flags.folder, endings_by_field(flags), flags.overwrite
    )
    print(f"{counted(written, 'file')} written")
    if left:
        print(f"{counted(len(left), 'existing file')} kept (--overwrite replaces them): {left[0]}, ...")
    return 0


def run_clean(flags: CleanFlags) -> int:
    """Clean the captions and tags of a metadata file, and return the exit code."""
    from neonym.data.tools import captions as tools

    table = tools.clean_table(tools.read_metadata_table(flags.in_json), flags.caption_separator, flags.drop)
    tools.write_metadata_table(table, flags.out)
    print(f"{flags.out}: {len(table)} images")
    return 0


def run_count(flags: CountFlags) -> int:
    """Print in how many images each tag occurs, and return the exit code."""
    from neonym.data.tools import captions as tools

    counts = tools.count_tags(tools.read_metadata_table(flags.in_json), flags.field, flags.caption_separator)
    for tag, number in sorted(counts.items(), key=lambda row: (-row[1], row[0]))[: flags.top]:
        print(f"{number:7} {tag}")
    print(f"{len(counts)} tags")
    return 0


def run_duplicates(flags: FolderFlags) -> int:
    """Print the groups of images that look the same, and return the exit code."""
    from neonym.data.tools.captions import images_in
    from neonym.data.tools.duplicates import difference_hashes, similar

    paths = images_in(flags.folder, flags.recursive)
    groups = similar(difference_hashes(paths))
    for group in groups:
        print(", ".join(in_one_line(str(path.relative_to(flags.folder))) for path in group))
    print(f"{len(paths)} images, {len(groups)} groups of images that look the same")
    return 0


def run_describe(flags: DescribeFlags) -> int:
    """Write a sentence for each image, and return the exit code."""
    from neonym.models.captioners import load_describer

    images = images_to_caption(flags)
    describe = load_describer(flags.model, flags.prompt, flags.max_tokens, flags.beams, flags.device)
    return write_captions(images, flags, lambda image: flags.prefix + describe(image), flags.caption_extension)


def run_tag(flags: TagFlags) -> int:
    """Write tags for each image, and return the exit code."""
    from neonym.data.tools.captions import clean_tags
    from neonym.models.captioners import load_tagger

    images = images_to_caption(flags)
    tagger = load_tagger(flags.model)

    def tags_of(image: Image) -> str:
        return flags.prefix + clean_tags(",".join(tagger(image, flags.threshold, flags.character_threshold)))

    return write_captions(images, flags, tags_of, flags.caption_extension)


def images_to_caption(flags: WriteFlags) -> list[Path]:
    """Return the images in the folder, recursively if requested. Raises DataError if there are none."""
    from neonym.data.tools.captions import images_in

    images = images_in(flags.folder, flags.recursive)
    if not images:
        raise DataError("contains no images", str(flags.folder), "Name another folder, or add --recursive")
    return images


def write_captions(images: list[Path], flags: WriteFlags, caption_of: Callable[[Image], str], ending: str) -> int:
    """Write a caption file beside each image, and return the exit code. Errors are printed at the end.

    An image that cannot be read is skipped. If the model or the disk fails, the remaining images are skipped too,
    but the files written so far are kept.
    """
    from neonym.data.colour import on_background
    from neonym.data.images import readable, upright
    from neonym.data.tools.captions import write_dataset_text

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
            write_dataset_text(file, caption_of(pixels) + "\n")
        except UserError as error:
            wrong.append(error)
            break
        written += 1
    print(
        f"{counted(written, 'file')} written"
        + (f", {counted(left, 'existing file')} kept (--overwrite replaces them)" if left else "")
    )
    for error in wrong:
        print(error, file=sys.stderr)
    return EXIT_USER_ERROR if wrong else 0


def endings_by_field(flags: Endings) -> dict[str, str]:
    """Return the file extension of each field that is read from files."""
    named = {"caption": flags.caption_extension, "tags": flags.tags_extension}
    return {field: f".{ending.lstrip('.')}" for field, ending in named.items() if ending}


RUNNERS: dict[str, tuple[type[BaseModel], Any]] = {
    "merge": (MergeFlags, run_merge),
    "split": (SplitFlags, run_split),
    "clean": (CleanFlags, run_clean),
    "count": (CountFlags, run_count),
    "duplicates": (FolderFlags, run_duplicates),
    "describe": (DescribeFlags, run_describe),
    "tag": (TagFlags, run_tag),
}
