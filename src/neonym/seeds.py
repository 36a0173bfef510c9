"""Keyed randomness: a draw depends on the seed and on what it is for, never on what was drawn before.

That is what makes resuming, batching and adding concepts invisible: no generator has a state worth saving.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Key = int | str


def derive(seed: Key, *key: Key) -> int:
    """A 63-bit number from a seed and a path of names and numbers (BLAKE2b over their text)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *key))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: Key, *key: Key) -> torch.Generator:
    """A CPU generator for tensors. The same key gives the same numbers on every machine and device."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *key))


def dice(seed: Key, *key: Key) -> random.Random:
    """A generator for choices and shuffles in plain Python."""
    return random.Random(derive(seed, *key))


def concept_seed(seed: int, token: str) -> int:
    """The same whatever other concepts there are."""
    return derive(seed, "concept", token.lower())
