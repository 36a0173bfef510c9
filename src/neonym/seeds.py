"""Keyed randomness: a random number depends on the seed and on its purpose, never on earlier random numbers.

This is why resuming, batching and adding concepts do not change a run, and why no generator state has to be saved.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Key = int | str


def derive(seed: Key, *key: Key) -> int:
    """Return a 63-bit seed derived from a seed and a path of names and numbers: the BLAKE2b hash of their text."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *key))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: Key, *key: Key) -> torch.Generator:
    """Return a CPU generator for tensors, seeded by a key. A key gives the same numbers on every machine and device."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *key))


def dice(seed: Key, *key: Key) -> random.Random:
    """Return a generator of plain Python for choices and shuffles, seeded by a key."""
    return random.Random(derive(seed, *key))


def concept_seed(seed: int, token: str) -> int:
    """Return the seed of a concept, which does not depend on the other concepts of the run."""
    return derive(seed, "concept", token.lower())
