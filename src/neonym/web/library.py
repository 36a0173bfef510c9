"""The words in the output folders: each an embedding file with what belongs to it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from neonym.web.home import Home, plain, plain_values
from neonym.web.images import modified_ns

OTHERS = (".pt", ".bin", ".ckpt", ".png")  # layouts that have no header
IMAGES = (".png", ".jpg", ".jpeg", ".webp")
STEP = re.compile(r"-(step\d{8}|\d{6})(-\w+)?$")  # of files that were saved during a run
SMALL = 64 * 2**20  # bytes: embedding files are kilobytes; a model beside them is not a word
HEADER = 2**20


@dataclass(frozen=True)
class Word:
    """A word in an output folder."""

    file: Path
    token: str
    date: float  # seconds since 1970
    model: str
    vectors: int
    verdict: dict[str, Any] | None
    samples: tuple[Path, ...]  # the newest sheet first

    @property
    def size(self) -> str:
        """The number of its vectors, in words."""
        return f"{self.vectors} vector{'s' * (self.vectors != 1)}"

    @property
    def card(self) -> Path | None:
        """The usage card beside the file, if there is one. A link, which may lead anywhere, is none."""
        card = self.file.with_suffix(".md")
        return card if card.is_file() and not card.is_symlink() else None

    @property
    def run_folder(self) -> Path | None:
        """The run folder beside the file, if there is one."""
        folder = self.file.with_name(f"{self.file.stem}-run")
        return folder if folder.is_dir() else None

    @property
    def files(self) -> list[Path]:
        """The files and folders that belong to the word alone."""
        steps = self.file.parent.glob(f"{glob_text(self.file.stem)}-step[0-9]*{self.file.suffix}")
        return [path for path in (self.file, self.card, self.run_folder, *sorted(steps)) if path is not None]


def words_in(home: Home) -> list[Word]:
    """Return the words in all output folders, the newest first."""
    files = (file for folder in home.named("outputs") for file in word_files(folder) if home.allows(file))
    return sorted(filter(None, map(read_word, files)), key=lambda word: -word.date)


def word_files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder that may be words, and those in its folders, but not those of single steps."""
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")]):
        parts = path.relative_to(folder).parts
        if not any(part.endswith(("-run", "-state")) for part in parts[:-1]) and not STEP.search(path.stem):
            yield path


def read_word(file: Path) -> Word | None:
    """Return the word in a file, or None if it is none. Only the header is read."""
    header = read_header(file)
    tensors = {name: value for name, value in header.items() if name != "__metadata__"}
    shapes = [value.get("shape") if isinstance(value, dict) else None for value in tensors.values()]
    rows = [shape[0] for shape in shapes if is_table(shape)]
    if not rows or len(rows) < len(shapes):
        return None
    given = header.get("__metadata__")
    known = given if isinstance(given, dict) else {}
    folder = file.with_name(f"{file.stem}-run")
    return Word(
        file=file,
        token=plain(str(known.get("token") or file.stem)),
        date=modified_ns(file) / 1e9,
        model=plain(str(known.get("neonym.base_model") or "")),
        vectors=max(rows),
        verdict=verdict_in(folder, file.stem),
        samples=samples_of(file),
    )


def other_files(home: Home) -> list[Path]:
    """Return the files in all output folders that may be words in other layouts, which only a look inside tells."""
    return [file for folder in home.named("outputs") for file in other_files_in(folder) if home.allows(file)]


def other_files_in(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder that may be words in other layouts, wherever links lead."""
    for path in sorted(path for path in folder.glob("*") if path.suffix.lower() in OTHERS and path.is_file()):
        if size_of(path) <= SMALL:
            yield path


def size_of(file: Path) -> int:
    """Return the bytes of a file, 0 if it is gone."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def word_from(file: Path, found: dict[str, Any]) -> Word | None:
    """Return the word in a file that was inspected, or None if it is none."""
    words = found.get("words") or []
    if not words:
        return None
    vectors = max((count for count, _ in words[0]["encoders"].values()), default=0)
    folder = file.with_name(f"{file.stem}-run")
    token, samples = plain(words[0]["token"]), samples_of(file)
    return Word(file, token, modified_ns(file) / 1e9, "", vectors, verdict_in(folder, file.stem), samples)


def is_table(shape: Any) -> TypeGuard[list[int]]:
    """Return whether a shape in a header is that of vectors: two numbers."""
    return isinstance(shape, list) and len(shape) == 2 and all(type(size) is int for size in shape)


def read_header(file: Path) -> dict[str, Any]:
    """Return the header of a .safetensors file; an empty one if it cannot be read or is too large for a word's."""
    try:
        if size_of(file) > SMALL:
            return {}
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            found = json.loads(opened.read(size)) if size <= HEADER else {}
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def verdict_in(folder: Path, token: str) -> dict[str, Any] | None:
    """Return the verdict in a run folder: that on a word, or else the first; None if there is none, or only a link."""
    file = folder / "verdict.json"
    try:
        found = None if folder.is_symlink() or file.is_symlink() else json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    return plain_values(next((row for row in rows if row.get("token") == token), rows[0] if rows else None))


def samples_of(file: Path) -> tuple[Path, ...]:
    """Return the sample images of a word, the newest sheet first."""
    folder = file.parent / "sample"
    named = re.compile(re.escape(file.stem) + r"_e?\d{6}_.*")  # as a run names them
    found = [path for path in folder.glob("*") if path.suffix.lower() in IMAGES and named.fullmatch(path.stem)]
    return tuple(sorted(found, key=lambda path: (not path.stem.endswith("_sheet"), -modified_ns(path))))


def glob_text(text: str) -> str:
    """Return a text as a pattern that matches nothing else."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in text)
