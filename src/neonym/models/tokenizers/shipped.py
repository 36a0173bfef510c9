"""Read the tokenizers that ship with the package, for models without their own. This module does not need torch."""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE

from neonym.models.source import BUILTIN_MODELS

FOLDER = BUILTIN_MODELS / "tokenizers"


@dataclass(frozen=True)
class SequenceTokenizer:
    """A tokenizer of one sequence, with the ids of its end and padding."""

    backend: Tokenizer
    end: int
    pad: int


ENDS = {"t5": (1, 0), "qwen3": (151645, 151643)}  # end and padding


@cache
def shipped(name: str) -> SequenceTokenizer:
    """Return the tokenizer "t5" or "qwen3"."""
    table = json.loads(lzma.decompress((FOLDER / f"{name}.json.xz").read_bytes()))
    backend = byte_level(table) if table["model"]["type"] == "BPE" else Tokenizer.from_str(json.dumps(table))
    return SequenceTokenizer(backend, *ENDS[name])


def byte_level(table: dict[str, Any]) -> Tokenizer:
    """Return a byte-level tokenizer, whose vocabulary is its bytes and what each merge makes of two of its tokens."""
    merges = [(first, second) for first, _, second in (pair.partition(" ") for pair in table["model"]["merges"])]
    spelled = [*table["model"]["vocab"], *(first + second for first, second in merges)]
    backend = Tokenizer(BPE(vocab={token: i for i, token in enumerate(spelled)}, merges=merges))
    rules = Tokenizer.from_str(
        json.dumps({**table, "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}})
    )
    backend.normalizer, backend.pre_tokenizer, backend.decoder = rules.normalizer, rules.pre_tokenizer, rules.decoder
    for token in sorted(table["added_tokens"], key=lambda own: own["id"]):
        options = {key: value for key, value in token.items() if key not in ("id", "content")}
        backend.add_tokens([AddedToken(token["content"], **options)])
    return backend
