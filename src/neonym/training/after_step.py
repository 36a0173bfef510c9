"""Hooks that run after each optimizer step on a word's rows, such as the moving average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class AfterStep(Protocol):
    """A hook that runs after each optimizer step, and may change a word's rows or derive something from them.

    What it keeps from step to step is saved with the run's state, so that a resumed run continues bit for bit.
    """

    name: str  # the name of `kept` in a saved state
    kept: dict[str, Tensor]  # {encoder: [n,W]}; empty if the hook keeps nothing
    is_result: bool  # whether `kept` replaces the rows in files, sample images and the verdict

    def __call__(self, step: int, rows: Mapping[str, Tensor]) -> None:
        """Process the rows {encoder: [n,W]}; changes are made in place. `step` counts from 0, and autograd is off."""
        ...


class MovingAverage:
    """An exponential moving average of the rows. Its decay grows from 0.1, so that it soon forgets the initial rows."""

    name, is_result = "average", True

    def __init__(self, decay: float, start: Mapping[str, Tensor]):
        self.decay = decay
        self.kept = {encoder: values.clone() for encoder, values in start.items()}

    def __call__(self, step: int, rows: Mapping[str, Tensor]) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for encoder, values in rows.items():
            self.kept[encoder].lerp_(values, 1 - decay)
