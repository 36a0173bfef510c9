"""Measure the spread of a model's vocabulary from a sample of its token table. This module does not need torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from neonym.models.loading.folder import Weights
from neonym.models.loading.gguf_files import is_gguf, sample_of
from neonym.models.loading.gguf_names import library_names
from neonym.models.loading.weight_files import is_safetensors, read_header

TOKEN_TABLES = ("token_embedding.weight", "shared.weight", "embed_tokens.weight")  # suffixes of token tables
ROWS = 512  # rows that are read: the spread is then accurate to 1 %
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1"}
BYTES = np.arange(256)
# Every number of F8_E4M3 by its byte: sign, 4 bits of exponent, 3 of mantissa. The two that are not numbers are 0.
SIGN, EXPONENT, MANTISSA = BYTES >> 7, (BYTES >> 3) & 15, (BYTES & 7) * 0.125
EIGHT_BITS = np.where(EXPONENT, (1 + MANTISSA) * 2.0 ** (EXPONENT - 7), MANTISSA * 2.0**-6) * (1.0 - 2 * SIGN)
EIGHT_BITS[[127, 255]] = 0
HEADER_SIZE = 8  # bytes with the length of a .safetensors header


def spread_of(weights: Weights) -> float | None:
    """Return the standard deviation of a coordinate in a text encoder's token table.

    Return None if it is in a pickle, or if it is zero or not finite.
    """
    for file in weights.files:
        read = sample_gguf_rows if is_gguf(file) else sample_rows if is_safetensors(file) else None
        rows = read(file, weights.start) if read else None
        if rows is not None:
            return spread_in(rows)
    return None


def spread_in(rows: np.ndarray) -> float | None:
    """Return the standard deviation of a coordinate in rows of a token table; None if it is zero or not finite."""
    spread = float(rows.std(dtype=np.float64))
    return spread if np.isfinite(spread) and spread > 0 else None


def every(count: int) -> int:
    """Return the distance between the rows that are read of a table with `count` rows."""
    return max(1, count // ROWS)


def sample_rows(file: Path, start: str) -> np.ndarray | None:
    """Return evenly spaced rows [R,W] of the token table in `file`, or None if there is none with the prefix `start`."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(HEADER_SIZE), "little")
        header = json.loads(opened.read(size))
    for name, tensor in header.items():
        if (
            name.startswith(start)
            and name.endswith(TOKEN_TABLES)
            and tensor["dtype"] in DTYPES
            and len(tensor["shape"]) == 2
        ):
            shape, kind = tuple(tensor["shape"]), tensor["dtype"]
            offset = HEADER_SIZE + size + tensor["data_offsets"][0]
            table = np.memmap(file, DTYPES[kind], "r", offset, shape)  # [V,W]
            rows = np.array(table[:: every(shape[0])])
            return as_floats(rows, kind) * scale_in(file, header, name, HEADER_SIZE + size)
    return None


def scale_in(file: Path, header: dict[str, Any], name: str, begin: int) -> np.ndarray:
    """Return the scale of a table in fp8, [] or [rows,1] as its rows are read, or 1 if it has none.

    `begin` is the first byte behind the header.
    """
    layer = name.removesuffix("weight")
    for own in (f"{layer}scale_weight", f"{layer}weight_scale"):
        if own in header and header[own]["dtype"] == "F32":
            start, end = header[own]["data_offsets"]
            found = np.fromfile(file, "<f4", (end - start) // 4, offset=begin + start)
            return found.reshape(()) if found.size == 1 else found[:: every(found.size), None]
    return np.ones(())


def as_floats(rows: np.ndarray, kind: str) -> np.ndarray:
    """Return numbers of a type of .safetensors files as numbers that numpy knows."""
    if kind == "BF16":  # the upper half of a float32
        return (rows.astype("<u4") << 16).view("<f4")
    return EIGHT_BITS[rows] if kind == "F8_E4M3" else rows


def sample_gguf_rows(file: Path, start: str) -> np.ndarray | None:
    """Return evenly spaced rows [R,W] of the token table in a GGUF file, or None if there is none."""
    header = read_header(file)
    names = library_names(header.shapes)
    table = next((n for n, new in names.items() if new.startswith(start) and new.endswith(TOKEN_TABLES)), None)
    return None if table is None else sample_of(file, table, every(header.shapes[table][0]))
