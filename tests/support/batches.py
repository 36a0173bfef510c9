"""Helpers that make batches for a model without images."""

from __future__ import annotations

import torch

from neonym.models.model import Model
from neonym.types import NO_CONDITIONS, Batch, Conditions
from support import WORD
from support.families import SIDE

CAPTIONS = [
    f"a photo of {WORD}",
    f"{WORD} in the rain, at night, with an umbrella and a very long description of it",
    "",
]


def batch_of(model: Model, captions: list[str], conditions: Conditions = NO_CONDITIONS) -> Batch:
    """Return a batch of random moments with these captions."""
    count, spec = len(captions), model.source.latents
    side = SIDE // spec.pixels
    return Batch(
        moments=torch.randn(count, 2 * spec.channels, side, side, generator=torch.Generator().manual_seed(2)),
        text=model.text.batch(captions),
        keys=[(0, 0, i) for i in range(count)],
        levels=[(i + 0.5) / count for i in range(count)],
        concept=torch.zeros(count, dtype=torch.int64),
        weight=torch.ones(count),
        conditions=conditions,
    )
