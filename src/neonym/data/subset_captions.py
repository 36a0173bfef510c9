"""The captions of a subset's images as they are stored, and the problems of their files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from neonym.data.caption_files import FOUND_UNASKED, CaptionFiles, dotted, gathered, meant_for, read_text
from neonym.data.captions import shows, uses_captions
from neonym.data.metadata_files import Entry
from neonym.errors import DataError, Problem, counted, in_one_line, some

if TYPE_CHECKING:
    from neonym.data.records import Folder


class Stored(NamedTuple):
    """The caption of one image."""

    text: str | None  # None: there is none
    further: str = ""  # lines that are not used


@dataclass
class StoredCaptions:
    """A reader of each entry's caption that gathers the problems of all of them."""

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

    def read(self, entry: Entry) -> Stored | None:
        """Return the stored caption of an entry; None if its file cannot be read, which `problems` reports."""
        wildcards, text = self.folder.rules.wildcards, entry.caption
        if text is not None:  # it comes from a metadata file
            return Stored(text, "" if wildcards else further_lines(text))
        name = self.used[entry.path.name]
        if name is None:
            return Stored(None)
        try:
            text = read_text(entry.path.with_name(name))
        except DataError as error:
            self.unreadable.append(error.problem)
            return None
        lines = [line.strip() for line in text.split("\n")]
        if wildcards:
            return Stored("\n".join(filter(None, lines)))
        return Stored(lines[0], further_lines(text))

    def problems(self) -> Iterator[Problem]:
        """Yield the problems of the caption files; only those of unreadable ones if templates replace captions."""
        place = self.folder.place
        yield from gathered(self.unreadable, place)
        if not self.used or not uses_captions(self.folder.rules):
            return
        where = str(place)
        yield from self.choices(where)
        yield from self.missing(where)

    def choices(self, where: str) -> Iterator[Problem]:
        """Yield a problem for each way in which one caption file was preferred to another."""
        files, read = self.files, list(dict.fromkeys(name for name in self.used.values() if name))
        found = {image: names for image, names in files.of.items() if names}
        if passed := list(dict.fromkeys(names[0] for image, names in found.items() if self.used[image] is None)):
            what = f"{counted(len(passed), '.txt file')} not read ({some(passed)}), because {self.tokens()} comes first, as in sd-scripts"
            fix = "Set caption_extension to .txt to read them (on the command line: --caption_extension=.txt)"
            yield Problem("warning", what, where, fix)
        if second := list(
            dict.fromkeys(names[-1] for image, names in found.items() if self.is_second(names[-1], image))
        ):
            what = f"{counted(len(second), '.txt file')} not read, because .caption files are ({some(second)})"
            yield Problem("note", what, where, "Set caption_extension to .txt to read them")
        if renamed := files.renamed(read):
            what = f"{counted(len(renamed), 'caption file')} read whose names are not quite those of their images ({some(renamed)})"
            yield Problem("note", what, where)
        if rivals := [f"{name} beside {used}" for name, used in files.rivals.items()]:
            what = f"{counted(len(rivals), 'caption file')} not read, as names differ in case alone ({some(rivals)})"
            yield Problem("warning", what, where, "Keep one of each")

    def is_second(self, name: str, image: str) -> bool:
        """Return whether the file is of another kind than the one that is read for the image."""
        used = self.used[image]
        return used is not None and kind_of(name) != kind_of(used)

    def tokens(self) -> str:
        """Return the class_tokens in quotes, introduced as the folder's name if they are that."""
        folder = self.folder
        named = folder.path is not None and folder.path.name.partition("_")[2] == folder.class_tokens
        origin = "the folder's name" if named else "class_tokens"
        return f'{origin} ("{in_one_line(folder.class_tokens or "")}")'

    def missing(self, where: str) -> Iterator[Problem]:
        """Yield one problem about images without a caption file and caption files without an image, if any."""
        folder, parts, fixes = self.folder, [], []
        bare = [image for image, name in self.used.items() if name is None]
        if bare and folder.class_tokens is None:
            parts.append(f"{len(bare)} images have no caption file and there are no class_tokens ({some(bare)})")
            fixes.append(f"Add .txt files, or class_tokens with {self.wanted_text()}")
            if endings := self.files.other_endings(bare):
                fixes.append(
                    f"Or are the captions in their {' and '.join(endings[:3])} files? Then set caption_extension"
                )
        elif bare and len(bare) < len(self.used):
            parts.append(
                f"{len(bare)} of {len(self.used)} images have no caption file, so class_tokens are used ({some(bare)})"
            )
        lonely = [name for name in self.files.lonely() if name.lower().endswith(self.read_endings)]
        if lonely:
            parts.append(
                f"{counted(len(lonely), 'caption file')} without an image ({meant_for(lonely, bare or list(self.used))})"
            )
            fixes.append("A caption file has its image's name")
        if parts:
            yield Problem("warning", "; ".join(parts), where, ". ".join(fixes))

    def wanted_text(self) -> str:
        """Return what the missing captions should contain."""
        if self.folder.is_reg:
            return "what they show, without the new word"
        return "what they show" if self.folder.rules.templates else "the new word"


def kind_of(name: str) -> str:
    """Return a file's ending without the dot, in lower case."""
    return name.lower().rpartition(".")[2]


def further_lines(text: str) -> str:
    """Return the lines after the first that are not blank."""
    return "\n".join(line.strip() for line in text.split("\n")[1:] if line.strip())


def prefers_class_tokens(folder: Folder) -> bool:
    """Return whether class_tokens suffice, so that only `.caption` files come before them, as in sd-scripts.

    If they lack the new word, they do not: the word can then be learned from `.txt` files only.
    """
    if not folder.class_tokens:
        return False
    rules = folder.rules
    return folder.is_reg or shows(" ".join(filter(None, (rules.prefix, folder.class_tokens, rules.suffix))), rules.word)
