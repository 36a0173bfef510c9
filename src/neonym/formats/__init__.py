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
from neonym.formats.tensors import SECOND
from neonym.types import Embedding

FORMATS = {  # by the ending of the file
    "safetensors": kohya, "pt": automatic1111, "ckpt": automatic1111, "bin": diffusers, "png": png_card,
}  # fmt: skip
READ_ONLY = {"webp": png_card, "jxl": png_card, "avif": png_card}
LARGEST = 1 << 30  # bytes: nothing that may carry an embedding is larger


def write_embedding(embedding: Embedding, path: Path | str, picture: Image | None = None) -> Path:
    """Write in the layout that the ending of `path` names; a `picture` is for a .png card. Raises FormatError."""
    path = Path(path)
    kind = FORMATS.get(path.suffix.removeprefix("."))
    if kind is None:
        raise FormatError(f"`{path.suffix}` is no known ending", str(path), f"Use one of: {', '.join(FORMATS)}")
    check(embedding, path)
    for name, rows in embedding.vectors.items():
        if not bool(rows.any(dim=1).all()):
            what = f"{name}: a vector is zero, which several programs take silently for a word without effect"
            raise FormatError(what, str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            if kind is png_card:
                png_card.write(embedding, part, picture)
            else:
                kind.write(embedding, part)
    except (OSError, RuntimeError) as error:
        raise FormatError(f"cannot be written ({error})", str(path), "Is the disk full?") from error
    return path


def check(embedding: Embedding, path: Path) -> None:
    """What is written, and what was read. Raises FormatError for what some program would choke on, or take for nothing."""
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


def read_embedding(path: Path | str) -> Embedding:
    """Read any supported layout; vectors become float32. Raises FormatError."""
    path = Path(path)
    kinds = FORMATS | READ_ONLY
    kind = kinds.get(path.suffix.removeprefix(".").lower())
    if not path.is_file():
        raise FormatError("there is no such file", str(path))
    if kind is None:
        raise FormatError(f"`{path.suffix}` is no known ending", str(path), f"Known: {', '.join(kinds)}")
    if path.stat().st_size > LARGEST:
        raise FormatError("is too large for an embedding", str(path))
    embedding = kind.read(path)
    vectors = {name: as_table(rows) for name, rows in embedding.vectors.items()}
    embedding = Embedding(embedding.token, vectors, embedding.metadata)
    check(embedding, path)
    return embedding


def with_vectors(embedding: Embedding, count: int) -> Embedding:
    """The first `count` vectors; where there are fewer, they are taken in turn until there are as many."""
    vectors = {
        name: rows[[i % len(rows) for i in range(count)]].contiguous() for name, rows in embedding.vectors.items()
    }
    told = {"neonym.vectors": str(count)} if "neonym.vectors" in embedding.metadata else {}
    return Embedding(embedding.token, vectors, {**embedding.metadata, **told})


def as_table(rows: torch.Tensor) -> torch.Tensor:
    """Float32, contiguous, 2-D: a single vector becomes a table of one row."""
    table = rows[None] if rows.ndim == 1 else rows
    return table.detach().float().contiguous() if table.is_floating_point() else table


def name_warnings(token: str, vectors: int) -> list[str]:
    """What programs cannot do with a word of this name: nearly all take the name of the file (interop.md)."""
    warnings = []
    if token != token.lower() and vectors > 1:
        warnings.append("diffusers loses all but the first vector of a name with capitals")
    if any(c.isspace() for c in token):
        warnings.append("ComfyUI and InvokeAI cannot use a name with blanks")
    if set(token) & set("<>[]()"):
        warnings.append("ComfyUI and InvokeAI cut names at brackets")
    if not token.isascii():
        warnings.append("InvokeAI takes ASCII names only")
    return warnings


def programs(embedding: Embedding, ending: str) -> dict[str, str]:
    """What each program does with such a file, as measured with its own loader (interop.md)."""
    pair = SECOND in embedding.vectors
    table = {
        "AUTOMATIC1111, Forge": "reads it",
        "ComfyUI": f"reads it: embedding:{embedding.token}",
        "InvokeAI": f"reads it: <{embedding.token}>",
        "SD.Next": "reads it",
        "diffusers": "one call for each encoder, with clip_l and clip_g" if pair else "reads it, with token=...",
        "sd-scripts": "reads it",
        "stable-diffusion.cpp": "reads clip_g, but takes it for clip_l too (its mistake)" if pair else "reads it",
    }
    if ending in ("png", "webp", "jxl", "avif"):
        return {name: "reads it" if name.startswith("AUTO") else "does not read pictures" for name in table}
    if ending == "bin":
        table |= {"InvokeAI": "refuses it", "SD.Next": "does not look at .bin"}
    if ending in ("pt", "ckpt") and pair:
        table["SD.Next"] = "refuses it"
    return table
