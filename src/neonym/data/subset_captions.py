"""Read the captions of a subset's images, and report problems of caption files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from neonym.data.caption_files import (
    FOUND_UNASKED,
    CaptionFiles,
    dotted,
    grouped_problems,
    read_text,
    with_likely_images,
)
from neonym.data.captions import contains_word, uses_captions
from neonym.data.datasets import Folder
from neonym.data.metadata_files import Entry
from neonym.errors import DataError, Problem, counted, in_one_line, some


class ImageCaption(NamedTuple):
    """The caption of one image, before it is processed."""

    text: str | None  # None: there is none
    further: str = ""  # its lines that are not used


@dataclass
class SubsetCaptions:
    """The captions of a subset. Problems of all of them are collected."""

    folder: Folder
    entries: Sequence[Entry]
    names: set[str]  # names of the files in the folder
    unreadable: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        folder = self.folder
        ending = folder.caption_extension
        endings = FOUND_UNASKED if ending is None else (dotted(ending),)
        self.tokens_first = ending is None and prefers_class_tokens(folder)
        self.read_endings = tuple(e.lower() for e in (endings[:1] if self.tokens_first else endings))
        beside = [entry.path.name for entry in self.entries if entry.caption is None]
        self.files = CaptionFiles(beside, self.names if beside else set(), endings)
        self.used = {image: self.files.used(image, self.read_endings) for image in beside}

    def read(self, entry: Entry) -> ImageCaption | None:
        """Return the caption of an entry, or None if its file cannot be read, which `problems` reports."""
        wildcards, text = self.folder.rules.wildcards, entry.caption
        if text is not None:  # it comes from a metadata file
            return ImageCaption(text, "" if wildcards else further_lines(text))
        name = self.used[entry.path.name]
        if name is None:
            return ImageCaption(None)
        try:
            text = read_text(entry.path.with_name(name))
        except DataError as error:
            self.unreadable.append(error.problem)
            return None
        lines = [line.strip() for line in text.split("\n")]
        if wildcards:
            return ImageCaption("\n".join(filter(None, lines)))
        return ImageCaption(lines[0], further_lines(text))

    def problems(self) -> Iterator[Problem]:
        """Yield the problems of the caption files; if templates replace captions, only those of unreadable files."""
        place = self.folder.place
        yield from grouped_problems(self.unreadable, place)
        if not self.used or not uses_captions(self.folder.rules):
            return
        where = str(place)
        yield from self.choices(where)
        yield from self.missing(where)

    def choices(self, where: str) -> Iterator[Problem]:
        """Yield a problem for each way in which a caption file was preferred to another source."""
        files, read = self.files, list(dict.fromkeys(name for name in self.used.values() if name))
        found = {image: names for image, names in files.of.items() if names}
        if skipped := list(dict.fromkeys(names[0] for image, names in found.items() if self.used[image] is None)):
            what = (
                f"{counted(len(skipped), '.txt file')} not read ({some(skipped)}), "
                f"because {self.tokens()} comes first, as in sd-scripts"
            )
            fix = "Set caption_extension to .txt to read them (on the command line: --caption_extension=.txt)"
            yield Problem("warning", what, where, fix)
        if second := list(
            dict.fromkeys(names[-1] for image, names in found.items() if self.is_second(names[-1], image))
        ):
            what = f"{counted(len(second), '.txt file')} not read, because .caption files come first ({some(second)})"
            yield Problem("note", what, where, "Set caption_extension to .txt to read them")
        if inexact := files.inexact(read):
            what = (
                f"{counted(len(inexact), 'caption file')} read "
                f"although their names do not match their images exactly ({some(inexact)})"
            )
            yield Problem("note", what, where)
        if rivals := [f"{name} beside {used}" for name, used in files.rivals.items()]:
            what = (
                f"{counted(len(rivals), 'caption file')} not read, "
                f"because their names differ only in case ({some(rivals)})"
            )
            yield Problem("warning", what, where, "Keep one of each")

    def is_second(self, name: str, image: str) -> bool:
        """Return whether the file has another extension than the one that is read for the image."""
        used = self.used[image]
        return used is not None and lower_extension(name) != lower_extension(used)

    def tokens(self) -> str:
        """Return the class_tokens in quotes, described as the folder's name if they come from it."""
        folder = self.folder
        named = folder.path is not None and folder.path.name.partition("_")[2] == folder.class_tokens
        origin = "the folder's name" if named else "class_tokens"
        return f'{origin} ("{in_one_line(folder.class_tokens or "")}")'

    def missing(self, where: str) -> Iterator[Problem]:
        """Yield one problem about images without a caption file and caption files without an image, if any."""
        folder, parts, fixes = self.folder, [], []
        bare = [image for image, name in self.used.items() if name is None]
        if bare and folder.class_tokens is None:
            parts.append(
                f"{counted(len(bare), 'image')} without a caption file, and no class_tokens are set ({some(bare)})"
            )
            fixes.append(f"Add .txt files, or class_tokens with {self.wanted_text()}")
            if endings := self.files.other_endings(bare):
                fixes.append(
                    f"Or are the captions in their {' and '.join(endings[:3])} files? Then set caption_extension"
                )
        elif bare and len(bare) < len(self.used):
            parts.append(
                f"{len(bare)} of {len(self.used)} images without a caption file, so class_tokens are used ({some(bare)})"
            )
        orphans = [name for name in self.files.orphans() if name.lower().endswith(self.read_endings)]
        if orphans:
            parts.append(
                f"{counted(len(orphans), 'caption file')} without an image "
                f"({with_likely_images(orphans, bare or list(self.used))})"
            )
            fixes.append("A caption file must have the name of its image")
        if parts:
            yield Problem("warning", "; ".join(parts), where, ". ".join(fixes))

    def wanted_text(self) -> str:
        """Return what the missing captions should contain, as a phrase."""
        if self.folder.is_reg:
            return "what they show, without the new word"
        return "what they show" if self.folder.rules.templates else "the new word"


def lower_extension(name: str) -> str:
    """Return the extension in a file name, in lower case, without the dot."""
    return name.lower().rpartition(".")[2]


def further_lines(text: str) -> str:
    """Return the lines after the first that are not blank."""
    return "\n".join(line.strip() for line in text.split("\n")[1:] if line.strip())


def prefers_class_tokens(folder: Folder) -> bool:
    """Return whether class_tokens have precedence over `.txt` files, as in sd-scripts.

    They do not if they lack the new word, which can then be learned only from `.txt` files.
    """
    if not folder.class_tokens:
        return False
    rules = folder.rules
    return folder.is_reg or contains_word(
        " ".join(filter(None, (rules.prefix, folder.class_tokens, rules.suffix))), rules.word
    )
