"""When to stop early: the evaluation loss has stopped changing (DVAR, Voronov et al. 2023), and the best rows so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import pvariance

from torch import Tensor


@dataclass
class EarlyStopping:
    """Reached when, for every concept, the variance of the last `window` evaluations is a small share of that of all.

    The evaluations are of fixed samples, so their curve is smooth and the share means something.
    """

    window: int
    threshold: float
    history: list[list[float]] = field(default_factory=list)  # per evaluation the loss of each concept
    best: list[dict[str, Tensor]] = field(default_factory=list)  # per concept the rows of its lowest loss

    def add(self, losses: Sequence[float], rows: Sequence[dict[str, Tensor]]) -> None:
        """One more evaluation. A loss that is not finite is never the best."""
        lowest = [min((h[i] for h in self.history), default=float("inf")) for i in range(len(losses))]
        self.history.append(list(losses))
        if not self.best:
            self.best = list(rows)
        for index, (loss, low) in enumerate(zip(losses, lowest, strict=True)):
            if loss < low:
                self.best[index] = rows[index]

    def should_stop(self) -> bool:
        if len(self.history) < 2 * self.window:
            return False
        curves = [list(curve) for curve in zip(*self.history, strict=True)]
        return all(pvariance(curve[-self.window :]) < self.threshold * pvariance(curve) for curve in curves)
