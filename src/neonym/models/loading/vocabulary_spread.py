"""How far apart the words of a model lie, from a sample of its vocabulary. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from neonym.models.loading.folder import Weights
from neonym.models.loading.weight_files import is_safetensors

TOKEN_TABLES = ("token_embedding.weight", "shared.weight", "embed_tokens.weight")  # how vocabularies' names end
ROWS = 512  # of a vocabulary that are read: its spread is then right to 1 %
NUMBERS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
HEADER_SIZE = 8  # bytes that say how long the header of a .safetensors file is


def spread_of(weights: Weights) -> float | None:
    """Return the standard deviation of a coordinate of a text encoder's vocabulary.

    None if it is not in a .safetensors file, or if no rate can be scaled by it: then that of CLIP ViT-L has to do.
    """
    for file in weights.files:
        rows = sample(file, weights.start) if is_safetensors(file) else None
        if rows is not None:
            spread = float(rows.std(dtype=np.float64))
            return spread if np.isfinite(spread) and spread > 0 else None
    return None


def sample(file: Path, start: str) -> np.ndarray | None:
    """Rows from all over the vocabulary in `file`, [R,W]; None if there is none whose name begins with `start`."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(HEADER_SIZE), "little")
        header = json.loads(opened.read(size))
    for name, tensor in header.items():
        if (
            name.startswith(start)
            and name.endswith(TOKEN_TABLES)
            and tensor["dtype"] in NUMBERS
            and len(tensor["shape"]) == 2
        ):
            shape, kind = tuple(tensor["shape"]), tensor["dtype"]
            offset = HEADER_SIZE + size + tensor["data_offsets"][0]
            table = np.memmap(file, NUMBERS[kind], "r", offset, shape)  # [V,W]
            rows = np.array(table[:: max(1, shape[0] // ROWS)])
            return (
                (rows.astype("<u4") << 16).view("<f4") if kind == "BF16" else rows
            )  # bf16: the upper half of a float32
    return None
