"""Measure the spread of a model's vocabulary from a sample of its token table. This module does not need torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from neonym.models.loading.folder import Weights
from neonym.models.loading.weight_files import is_safetensors

TOKEN_TABLES = ("token_embedding.weight", "shared.weight", "embed_tokens.weight")  # suffixes of token tables
ROWS = 512  # rows that are read: the spread is then accurate to 1 %
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
HEADER_SIZE = 8  # bytes with the length of a .safetensors header


def spread_of(weights: Weights) -> float | None:
    """Return the standard deviation of a coordinate in a text encoder's token table.

    Return None if it is not in a .safetensors file, or if it is zero or not finite.
    """
    for file in weights.files:
        rows = sample_rows(file, weights.start) if is_safetensors(file) else None
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
            # A bf16 number is the upper half of a float32
            return (rows.astype("<u4") << 16).view("<f4") if kind == "BF16" else rows
    return None
