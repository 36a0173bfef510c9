"""Read and write embedding files. Each layout is a module with `read`, `write` or both.

A file is complete or absent. The writer refuses what breaks other programs: missing rows, numbers that are not finite,
rows that are not a table. Reading a file never runs code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from PIL.Image import Image

from neonym.errors import FormatError
from neonym.formats import automatic1111, diffusers, kohya, pickles, png_card
from neonym.formats.content import Stored, ending_of, shown
from neonym.formats.programs import IMAGES, SD2_WIDTH
from neonym.formats.programs import programs as programs
from neonym.formats.tensors import ENCODER, OUTPUT, OUTPUT_MEANS, SECOND, SECOND_WIDTH, WIDTH, embeddings_of
from neonym.io.atomic import atomic_write
from neonym.text.words import clean
from neonym.types import Embedding


class Layout(Protocol):
    """A module that reads one kind of file."""

    def read(self, path: Path) -> Stored: ...


FORMATS = {  # what is written, by the ending of the file
    "safetensors": kohya, "pt": automatic1111, "ckpt": automatic1111, "bin": diffusers, "png": png_card,
}  # fmt: skip
PICKLE = b"\x80"  # what a pickle begins with
IMAGES_BEGIN = (b"\x89PNG", b"RIFF", b"\xff\xd8\xff", b"\xff\x0a", b"\0\0\0\x0cJXL", b"GIF8", b"BM")
AVIF = (b"ftypavif", b"ftypavis", b"ftypmif1")
MOST_SHOWN = 8  # words
LARGEST = 1 << 30  # bytes: no file that is read as a whole and may carry an embedding is larger
HEAD = 64  # every width is a multiple of the width of an attention head


def write_embedding(embedding: Embedding, path: Path | str, image: Image | None = None) -> Path:
    """Write a word in the layout that the ending of `path` names, and return the path.

    `image` is the image of a .png card. Raise FormatError if the file cannot be written.
    """
    path = Path(path)
    check_writable(embedding, path)
    kind = FORMATS[ending_of(path)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, lasting=True) as part:
            if kind is png_card:
                png_card.write(embedding, part, path.stem, image)
            else:
                kind.write(embedding, part)
    except (OSError, RuntimeError) as error:
        raise FormatError(f"cannot be written ({error})", str(path), "Is the disk full?") from error
    return path


def check_writable(embedding: Embedding, path: Path) -> None:
    """Raise FormatError if the ending of `path` names no layout, or if the file would break other programs."""
    if ending_of(path) not in FORMATS:
        raise FormatError(f"`{path.suffix}` is no known ending", str(path), f"Use one of: {', '.join(FORMATS)}")
    check(embedding, path)
    check_programs(embedding, path)


def check(embedding: Embedding, path: Path) -> None:
    """Raise FormatError for vectors that cannot be a word. Files are checked when they are written and when read."""
    if not embedding.vectors:
        raise FormatError("there are no vectors in it", str(path))
    counts = {rows.shape[0] for rows in embedding.vectors.values() if rows.ndim == 2}
    for name, rows in embedding.vectors.items():
        if rows.ndim != 2 or 0 in rows.shape:
            raise FormatError(f"{name}: a table of vectors is needed, not the shape {tuple(rows.shape)}", str(path))
        if not rows.is_floating_point():
            raise FormatError(f"{name}: numbers of the kind {rows.dtype} are no vectors", str(path))
        if not bool(rows.isfinite().all()):
            raise FormatError(f"{name}: some numbers are not finite", str(path))
    if len(counts) > 1:
        raise FormatError(f"the encoders have unequal numbers of vectors {sorted(counts)}", str(path))


def check_programs(embedding: Embedding, path: Path) -> None:
    """Raise FormatError for vectors that would break the programs that read them."""
    for name, rows in embedding.vectors.items():
        if not bool(rows.any(dim=1).all()):
            what = f"{name}: a vector is zero, which several programs take silently for a word without effect"
            raise FormatError(what, str(path))
    widths = {name: rows.shape[1] for name, rows in embedding.vectors.items()}
    if set(widths) not in ({ENCODER}, {ENCODER, SECOND}):
        what = f"a file holds the vectors of one encoder or of SDXL's two, not of {' and '.join(sorted(widths))} alone"
        raise FormatError(what, str(path))
    first, second = widths[ENCODER], widths.get(SECOND)
    small = all(width % HEAD == 0 and width < WIDTH for width in widths.values())  # models for trying things out
    known = first in (WIDTH, SD2_WIDTH) if second is None else (first, second) == (WIDTH, SECOND_WIDTH)
    if not (known or small):
        what = (
            f"vectors of {' and '.join(map(str, widths.values()))} numbers belong to no text encoder that programs have"
        )
        fix = f"{WIDTH} for Stable Diffusion 1.x, {SD2_WIDTH} for 2.x, {WIDTH} and {SECOND_WIDTH} for XL"
        raise FormatError(what, str(path), fix)


def read_embedding(path: Path | str, word: str | None = None) -> Embedding:
    """Return the word of a file of any layout, or the one that is called `word`, with float32 vectors.

    Raise FormatError if the file cannot be read, or if it is not clear which word is meant.
    """
    return one_word(read_words(path)[0], path, word)


def one_word(found: list[Embedding], path: Path | str, word: str | None = None) -> Embedding:
    """Return the only word of a file, or the one that is called `word`. Raise FormatError if there is not one."""
    called = [embedding for embedding in found if word is None or clean(embedding.token) == clean(word)]
    if len(called) == 1:
        return called[0]
    names = ", ".join(embedding.token for embedding in found[:MOST_SHOWN]) + ", ..." * (len(found) > MOST_SHOWN)
    if not called:
        raise FormatError(f"has no word `{word}`, but {names}", str(path), "Name one that is in it")
    how = f"neonym convert {path} {called[0].token}.safetensors --word {called[0].token}"
    raise FormatError(f"holds {len(called)} words ({names})", str(path), f"Take out the one that you want: {how}")


def read_words(path: Path | str) -> tuple[list[Embedding], Stored]:
    """Return every word of a file, and how the file is stored. Raise FormatError if it cannot be read."""
    stored = read_stored(path)
    return words_of(stored, path), stored


def read_stored(path: Path | str) -> Stored:
    """Return what a file holds, recognised by its content, not its name. Raise FormatError if it cannot be read."""
    path = Path(path)
    if path.is_dir():
        raise FormatError("is a folder", str(path), "Name the file in it")
    if not path.is_file():
        raise FormatError("there is no such file", str(path))
    try:
        kind = kind_of(path)
        if kind is not kohya and path.stat().st_size > LARGEST:
            raise FormatError("is too large for an embedding", str(path))
        return kind.read(path)
    except OSError as error:
        raise FormatError(f"cannot be read ({error.strerror})", str(path)) from error


def kind_of(path: Path) -> Layout:
    """Return the reader for a file, chosen by its first bytes.

    Raise FormatError if it is not an embedding file, OSError if it cannot be opened.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < LARGEST:  # the size of its header
        return kohya
    if start.startswith((PICKLE, b"PK")):
        return pickles
    if start.startswith(IMAGES_BEGIN) or start[4:12] in AVIF:
        return png_card
    if start.lstrip().startswith(b"<") or start.startswith(b"version https://git-lfs"):
        what = "is a web page or a pointer, not the file itself"
        raise FormatError(what, str(path), "Download it again, with the button of its page that downloads")
    by_ending: dict[str, Layout] = {"safetensors": kohya, **dict.fromkeys(IMAGES, png_card)}
    return by_ending.get(ending_of(path), pickles)  # `pickles` says how the file is damaged


def words_of(stored: Stored, path: Path | str) -> list[Embedding]:
    """Return every word of a file that was read. Raise FormatError if one of them is not sound."""
    try:
        found = embeddings_of(stored, Path(path))
    except RuntimeError as error:  # raised for kinds of numbers that torch cannot compute with
        raise FormatError(f"its numbers cannot be read ({str(error)[:80]})", str(path)) from error
    for word in found:
        check(word, Path(path))
    return found


def join(halves: Sequence[tuple[Embedding, Path]], token: str | None = None) -> Embedding:
    """Return one SDXL word made of two files, one for each text encoder, in either order.

    Raise FormatError if they are not two halves of one word.
    """
    where = " and ".join(str(file) for _, file in halves)
    rows = [rows for word, _ in halves for rows in word.vectors.values()]
    by_width = {table.shape[1]: table for table in rows}
    if len(rows) != 2 or set(by_width) != {WIDTH, SECOND_WIDTH}:
        what = f"are not the two halves of one SDXL word: they have vectors of {', '.join(str(r.shape[1]) for r in rows)} numbers"
        raise FormatError(what, where, f"One file has vectors of {WIDTH} numbers, the other of {SECOND_WIDTH}")
    named = {clean(word.token): word.token for word, file in halves if word.token != file.stem}
    if len(named) > 1 and token is None:
        raise FormatError(
            f"are different words ({', '.join(named.values())})", where, "Name the joined one with --token"
        )
    metadata = {name: text for word, _ in reversed(halves) for name, text in word.metadata.items()}
    own = next(iter(named.values()), halves[0][0].token)
    joined = Embedding(own, {ENCODER: by_width[WIDTH], SECOND: by_width[SECOND_WIDTH]}, metadata)
    check(joined, Path(where))
    return joined


def left_out(embedding: Embedding) -> str:
    """Return a note that names the tensors of the file that are not part of the word and were not read."""
    outputs = [name for name in embedding.left_out if OUTPUT.fullmatch(name)]
    others = [name for name in embedding.left_out if name not in outputs]
    said = [f"{OUTPUT_MEANS} ({', '.join(outputs)}), which stand behind the text encoder"] if outputs else []
    said += [f"other tensors ({', '.join(shown(name[:40]) for name in others[:MOST_SHOWN])})"] if others else []
    return f"left out: {' and '.join(said)}"


def with_vectors(embedding: Embedding, count: int) -> Embedding:
    """Return a word with its first `count` vectors, which are repeated in turn if there are fewer."""
    vectors = {
        name: rows[[i % len(rows) for i in range(count)]].contiguous() for name, rows in embedding.vectors.items()
    }
    told = {"neonym.vectors": str(count)} if "neonym.vectors" in embedding.metadata else {}
    return replace(embedding, vectors=vectors, metadata={**embedding.metadata, **told})
