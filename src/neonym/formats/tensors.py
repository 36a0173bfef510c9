"""From named tensors, however a program calls them, to the vectors of each text encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from neonym.errors import FormatError
from neonym.formats.content import Stored, check_tensors
from neonym.types import Embedding

ENCODER, SECOND = "text_encoder", "text_encoder_2"  # CLIP of SD 1.x/2.x and SDXL's first; SDXL's second
PAIRS = (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1"), (ENCODER, SECOND))
PLAIN = {"emb_params", "emp_params", "emp_params_out", "*", "clip_h"}  # names that say nothing of the word
T5 = ("t5xxl", "t5", "text_encoders_2")  # of SD 3 and FLUX
WIDTH, SECOND_WIDTH = 768, 1280  # of SDXL's encoders
BUNDLE = "bundle_emb."  # embeddings within a LoRA file
LONGEST_NAME = 100
OWN = "neonym"  # what our cards keep their metadata under, as JSON
FACTS = {  # what the web UI's files know of their training
    "step": "neonym.steps", "sd_checkpoint": "neonym.base_model_hash", "sd_checkpoint_name": "neonym.base_model",
}  # fmt: skip


def embeddings_of(stored: Stored, path: Path) -> list[Embedding]:
    """Every word of a file: one, unless a LoRA carries several. Raises FormatError."""
    tensors = stored.tensors
    bundled = bundles(tensors)
    if bundled:
        return [Embedding(word, vectors_of(inner, path), {}) for word, inner in sorted(bundled.items())]
    if not tensors:
        raise FormatError("has no tensors", str(path))
    vectors, metadata = vectors_of(tensors, path), metadata_of(stored)
    name = next(iter(tensors))
    known = len(tensors) > 1 or name in PLAIN or name in {part for pair in PAIRS for part in pair}
    token = as_name(metadata.get("token")) or as_name(stored.table.get("name")) or ("" if known else as_name(name))
    return [Embedding(token or path.stem, vectors, metadata)]


def as_name(value: Any) -> str:
    """What a file calls its word, or nothing if that can be no word."""
    name = value.strip() if isinstance(value, str) else ""
    return name if name.isprintable() and len(name) <= LONGEST_NAME else ""


def vectors_of(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """{encoder: its tensor}. What stands beside SDXL's two is left alone. Raises FormatError if it is not clear which they are."""
    check_tensors(tensors, path)
    if any(name in tensors for name in T5):
        raise FormatError("has vectors for T5: it is for Stable Diffusion 3 or FLUX", str(path))
    for first, second in PAIRS:
        if first in tensors and second in tensors:
            return {ENCODER: tensors[first], SECOND: tensors[second]}
    by_width = {rows.shape[-1] if rows.ndim else 0: rows for rows in tensors.values()}
    if len(tensors) == 2 and set(by_width) == {WIDTH, SECOND_WIDTH}:  # SD.Next tells them so
        return {ENCODER: by_width[WIDTH], SECOND: by_width[SECOND_WIDTH]}
    rows = only_one(tensors, path)
    second = any(name in tensors for _, name in PAIRS) or (rows.ndim > 0 and rows.shape[-1] == SECOND_WIDTH)
    return {SECOND if second else ENCODER: rows}


def only_one(tensors: Mapping[str, Tensor], path: Path) -> Tensor:
    """The one tensor, or several names for the same numbers."""
    for name in ("emp_params_out", "*"):  # OneTrainer's: what it learned last; the web UI's
        if name in tensors:
            return tensors[name]
    distinct: list[Tensor] = []
    for rows in tensors.values():
        if not any(rows.shape == other.shape and bool((rows == other).all()) for other in distinct):
            distinct.append(rows)
    if len(distinct) != 1:
        shown = ", ".join(name[:40] for name in list(tensors)[:4])
        raise FormatError(
            f"has {len(distinct)} tensors ({shown}); an embedding has one, or clip_l and clip_g", str(path)
        )
    return distinct[0]


def bundles(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Word -> its tensors, of a LoRA file that carries embeddings. A word may have dots in it, the names of tensors have none."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, rows in tensors.items():
        if name.startswith(BUNDLE):
            word, _, key = name.removeprefix(BUNDLE).rpartition(".")
            word = word.removesuffix(".string_to_param")
            found.setdefault(as_name(word) or "word", {})[key] = rows
    return found


def metadata_of(stored: Stored) -> dict[str, str]:
    """What a file says of its making: its own metadata, ours within a card, or the web UI's few facts."""
    facts = {FACTS[key]: stored.table.get(key) for key in FACTS if stored.inner is not None}
    plain = {key: str(value) for key, value in facts.items() if isinstance(value, int | str)}
    return {**plain, **stored.metadata, **read_metadata(stored.table.get(OWN))}


def read_metadata(text: Any) -> dict[str, str]:
    """What `own_metadata` wrote; nothing of anything else."""
    try:
        said = json.loads(text) if isinstance(text, str | bytes) else None
    except (ValueError, RecursionError):
        return {}
    return {key: value for key, value in said.items() if isinstance(value, str)} if isinstance(said, dict) else {}


def web_ui_table(embedding: Embedding, rows: Any) -> dict[str, Any]:
    """What the web UI keeps of one encoder's word; `rows` in whatever form the file has them."""
    step = embedding.metadata.get("neonym.steps", "0")
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": rows},
        "name": embedding.token,
        "step": int(step) if step.isascii() and step.isdecimal() else 0,
        "sd_checkpoint": embedding.metadata.get("neonym.base_model_hash"),
        "sd_checkpoint_name": embedding.metadata.get("neonym.base_model"),
    }


def own_metadata(embedding: Embedding) -> str:
    """Its metadata as one text, for layouts that have no place of their own for it."""
    return json.dumps({**embedding.metadata, "token": embedding.token}, sort_keys=True)
