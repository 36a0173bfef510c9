"""Early stopping: end the run once the evaluation loss has stopped changing (DVAR, Voronov et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import pvariance

from torch import Tensor


@dataclass
class EarlyStopping:
    """The rule of early stopping, with the evaluation losses so far and the rows of the lowest one.

    Training ends when the variance of the last `window` losses is less than `threshold` times the variance of all of
    them. The evaluations use fixed samples, so the curve is smooth enough for this ratio.
    """

    window: int
    threshold: float
    history: list[float] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)  # {encoder: [n,W]}

    def add(self, loss: float, rows: dict[str, Tensor]) -> None:
        """Add an evaluation loss, and keep the rows of the lowest one so far; one that is not finite is never lower."""
        lowest = min(filter(math.isfinite, self.history), default=math.inf)
        if not self.best or loss < lowest:
            self.best = rows
        self.history.append(loss)

    def restore(self, history: Sequence[float], best: dict[str, Tensor]) -> None:
        """Continue from the losses and the best rows of a saved state."""
        self.history, self.best = list(history), best

    def should_stop(self) -> bool:
        """Return whether the loss has stopped changing."""
        if len(self.history) < 2 * self.window:
            return False
        return pvariance(self.history[-self.window :]) < self.threshold * pvariance(self.history)
