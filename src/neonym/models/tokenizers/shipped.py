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


ENDS = {"t5": (1, 0), "qwen3": (151645, 151643), "mistral3": (2, 11)}  # end and padding


@cache
def shipped(name: str) -> SequenceTokenizer:
    """Return the tokenizer "t5", "qwen3" or "mistral3"."""
    table = json.loads(lzma.decompress((FOLDER / f"{name}.json.xz").read_bytes()))
    if table["model"]["type"] != "BPE":
        return SequenceTokenizer(Tokenizer.from_str(json.dumps(table)), *ENDS[name])
    make = bpe_of_merges if table["model"]["merges"] else bpe_of_ranks
    return SequenceTokenizer(byte_level(table, make(table["model"])), *ENDS[name])


def bpe_of_merges(model: dict[str, Any]) -> BPE:
    """Return the byte-pair encoding whose vocabulary is its bytes and what each merge makes of two of its tokens."""
    merges = [(first, second) for first, _, second in (pair.partition(" ") for pair in model["merges"])]
    spelled = [*model["vocab"], *(first + second for first, second in merges)]
    return BPE(vocab={token: i for i, token in enumerate(spelled)}, merges=merges)


def bpe_of_ranks(model: dict[str, Any]) -> BPE:
    """Return the byte-pair encoding that merges any two neighbours into the token that comes first in its vocabulary.

    A table has the places at which each token can be split into two others; the ids begin with the special tokens.
    """
    split = zip(model["vocab"], model["splits"], strict=True)
    merges = [(token[:at], token[at:]) for token, places in split for at in places]
    vocabulary = {token: i for i, token in enumerate([*model["special"], *model["vocab"]])}
    return BPE(vocab=vocabulary, merges=merges)


def byte_level(table: dict[str, Any], model: BPE) -> Tokenizer:
    """Return a byte-level tokenizer with the rules and the added tokens of a table."""
    backend = Tokenizer(model)
    rules = Tokenizer.from_str(
        json.dumps({**table, "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}})
    )
    backend.normalizer, backend.pre_tokenizer, backend.decoder = rules.normalizer, rules.pre_tokenizer, rules.decoder
    added = sorted(table["added_tokens"], key=lambda own: own["id"])
    backend.add_tokens([added_token(**token) for token in added])
    return backend


def added_token(id: int, content: str, **options: bool) -> AddedToken:
    """Return an added token from its entry in a table."""
    del id
    return AddedToken(content, **options)
