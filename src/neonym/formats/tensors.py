"""From named tensors, however a program calls them, to the vectors of each text encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from neonym.errors import FormatError
from neonym.types import Embedding

ENCODER, SECOND = "text_encoder", "text_encoder_2"  # CLIP of SD 1.x/2.x and SDXL's first; SDXL's second
PAIRS = (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1"), (ENCODER, SECOND))
PLAIN = {"emb_params", "emp_params", "emp_params_out", "*"}  # names that say nothing of the word
BUNDLE = "bundle_emb."  # embeddings within a LoRA file


def embedding_of(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> Embedding:
    """Raises FormatError if it is not clear which tensors are the word's."""
    metadata = dict(metadata or {})
    bundled = bundles(tensors)
    if bundled:
        if len(bundled) > 1:
            what = f"holds {len(bundled)} words ({', '.join(sorted(bundled))})"
            raise FormatError(what, str(path), "Take them apart first: one file for each")
        ((word, inner),) = bundled.items()
        return Embedding(word, embedding_of(inner, path).vectors, metadata)
    for first, second in PAIRS:
        if first in tensors and second in tensors and len(tensors) == 2:
            return Embedding(token_of(metadata, path), {ENCODER: tensors[first], SECOND: tensors[second]}, metadata)
    rows = only_one(tensors, path)
    name = next(iter(tensors))
    known = name in PLAIN or name in {part for pair in PAIRS for part in pair}
    encoder = SECOND if name in ("clip_g", "text_encoders_1", SECOND) else ENCODER
    return Embedding(metadata.get("token") or (path.stem if known else name), {encoder: rows}, metadata)


def token_of(metadata: Mapping[str, str], path: Path) -> str:
    return metadata.get("token") or path.stem


def only_one(tensors: Mapping[str, Tensor], path: Path) -> Tensor:
    """The one tensor, or several names for the same numbers."""
    if "emp_params_out" in tensors:  # OneTrainer: what it learned last
        return tensors["emp_params_out"]
    distinct: list[Tensor] = []
    for rows in tensors.values():
        if not any(rows.shape == other.shape and bool((rows == other).all()) for other in distinct):
            distinct.append(rows)
    if len(distinct) != 1:
        shown = ", ".join(list(tensors)[:4])
        raise FormatError(
            f"has {len(distinct)} tensors ({shown}); an embedding has one, or clip_l and clip_g", str(path)
        )
    return distinct[0]


def bundles(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Word -> its tensors, of a LoRA file that carries embeddings."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, rows in tensors.items():
        if name.startswith(BUNDLE):
            word, _, key = name.removeprefix(BUNDLE).partition(".")
            found.setdefault(word, {})[key.removeprefix("string_to_param.")] = rows
    return found
