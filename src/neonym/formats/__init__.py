"""Embedding files: one file per layout, each with `read`, `write` and what it is called.

A file is complete or absent, and the writer refuses what breaks programs: no rows, numbers that are not finite,
rows that are not a table. Nothing that is read may run code.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL.Image import Image

from neonym.errors import FormatError
from neonym.files import whole_file
from neonym.formats import automatic1111, diffusers, kohya, png_card
from neonym.formats.content import Stored
from neonym.formats.pickles import ending_of
from neonym.formats.programs import SD2_WIDTH
from neonym.formats.programs import programs as programs
from neonym.formats.tensors import ENCODER, SECOND, SECOND_WIDTH, WIDTH, embeddings_of
from neonym.types import Embedding

FORMATS = {  # by the ending of the file
    "safetensors": kohya, "pt": automatic1111, "ckpt": automatic1111, "bin": diffusers, "png": png_card,
}  # fmt: skip
READ_ONLY = {"webp": png_card, "jxl": png_card, "avif": png_card}
LARGEST = 1 << 30  # bytes: of what is read as a whole, nothing that may carry an embedding is larger
HEAD = 64  # every width is a multiple of an attention head's


def write_embedding(embedding: Embedding, path: Path | str, picture: Image | None = None) -> Path:
    """Write in the layout that the ending of `path` names; a `picture` is for a .png card. Raises FormatError."""
    path = Path(path)
    kind = FORMATS.get(ending_of(path))
    if kind is None:
        raise FormatError(f"`{path.suffix}` is no known ending", str(path), f"Use one of: {', '.join(FORMATS)}")
    check(embedding, path)
    check_programs(embedding, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, lasting=True) as part:
            if kind is png_card:
                png_card.write(embedding, part, picture)
            else:
                kind.write(embedding, part)
    except (OSError, RuntimeError) as error:
        raise FormatError(f"cannot be written ({error})", str(path), "Is the disk full?") from error
    return path


def check(embedding: Embedding, path: Path) -> None:
    """What is written, and what was read. Raises FormatError for what can be no word."""
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
    """What is written must not break the programs that read it. Raises FormatError."""
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


def read_embedding(path: Path | str) -> Embedding:
    """Read any supported layout; vectors become float32. Raises FormatError."""
    found = read_words(path)[0]
    if len(found) > 1:
        what = f"holds {len(found)} words ({', '.join(e.token for e in found)})"
        raise FormatError(what, str(path), f"Take them apart first: neonym convert {path} FOLDER --to safetensors")
    return found[0]


def read_words(path: Path | str) -> tuple[list[Embedding], Stored]:
    """Every word of a file, and how the file is stored. Raises FormatError."""
    path = Path(path)
    kinds = FORMATS | READ_ONLY
    kind = kinds.get(ending_of(path))
    if not path.is_file():
        raise FormatError("there is no such file", str(path))
    if kind is None:
        raise FormatError(f"`{path.suffix}` is no known ending", str(path), f"Known: {', '.join(kinds)}")
    try:
        if kind is not kohya and path.stat().st_size > LARGEST:
            raise FormatError("is too large for an embedding", str(path))
        stored = kind.read(path)
    except OSError as error:
        raise FormatError(f"cannot be read ({error.strerror})", str(path)) from error
    found = []
    for word in embeddings_of(stored, path):
        vectors = {name: as_table(rows) for name, rows in word.vectors.items()}
        found.append(Embedding(word.token, vectors, word.metadata))
        check(found[-1], path)
    return found, stored


def with_vectors(embedding: Embedding, count: int) -> Embedding:
    """The first `count` vectors; where there are fewer, they are taken in turn until there are as many."""
    vectors = {
        name: rows[[i % len(rows) for i in range(count)]].contiguous() for name, rows in embedding.vectors.items()
    }
    told = {"neonym.vectors": str(count)} if "neonym.vectors" in embedding.metadata else {}
    return Embedding(embedding.token, vectors, {**embedding.metadata, **told})


def as_table(rows: torch.Tensor) -> torch.Tensor:
    """Float32, contiguous, 2-D: a single vector becomes a table of one row."""
    return (rows[None] if rows.ndim == 1 else rows).detach().float().contiguous()
