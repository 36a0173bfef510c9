"""Provide keyed randomness: a draw depends on the seed and on its purpose, never on earlier draws.

So resuming, batching and adding concepts do not change a run, and no generator has a state that must be saved.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Key = int | str


def derive(seed: Key, *key: Key) -> int:
    """Return a 63-bit number for a seed and a path of names and numbers (BLAKE2b of their text)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *key))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: Key, *key: Key) -> torch.Generator:
    """Return a CPU generator for tensors. The same key gives the same numbers on every machine and device."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *key))


def dice(seed: Key, *key: Key) -> random.Random:
    """Return a generator for choices and shuffles in plain Python."""
    return random.Random(derive(seed, *key))


def concept_seed(seed: int, token: str) -> int:
    """Return the seed of a concept, which is the same whatever other concepts there are."""
    return derive(seed, "concept", token.lower())
