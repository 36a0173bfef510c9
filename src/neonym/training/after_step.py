"""What happens to a word's rows after each step that moved them, as a list of small objects in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class AfterStep(Protocol):
    """Something that is done to a word's rows, or learned from them, after each step that moved them.

    What it keeps from step to step is saved with the run's state, so that a resumed run goes on bit for bit.
    """

    name: str  # what `kept` is called in a saved state
    kept: dict[str, Tensor]  # {encoder: [n,W]}; empty if nothing is kept
    is_result: bool  # whether `kept`, and not the rows, is what is saved, shown and judged

    def __call__(self, step: int, rows: Mapping[str, Tensor]) -> None:
        """Act on the rows {encoder: [n,W]}, in place if they are to change; `step` counts from 0. No gradient is recorded."""
        ...


class MovingAverage:
    """The rows' exponential moving average, which forgets the start sooner in a young run."""

    name, is_result = "average", True

    def __init__(self, decay: float, start: Mapping[str, Tensor]):
        self.decay = decay
        self.kept = {encoder: values.clone() for encoder, values in start.items()}

    def __call__(self, step: int, rows: Mapping[str, Tensor]) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for encoder, values in rows.items():
            self.kept[encoder].lerp_(values, 1 - decay)
