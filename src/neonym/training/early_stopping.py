"""Early stopping: end the run once the evaluation loss has stopped changing (DVAR, Voronov et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import pvariance

from torch import Tensor


@dataclass
class EarlyStopping:
    """The rule of early stopping, with the evaluation losses so far and the rows of the lowest one.

    The run ends when, for every concept, the variance of the last `window` losses is less than `threshold` times the
    variance of all of them. The evaluations use fixed samples, so the curve is smooth enough for this ratio.
    """

    window: int
    threshold: float
    history: list[list[float]] = field(default_factory=list)  # per evaluation, the loss of each concept
    best: list[dict[str, Tensor]] = field(default_factory=list)  # per concept, the rows of its lowest loss

    def add(self, losses: Sequence[float], rows: Sequence[dict[str, Tensor]]) -> None:
        """Add the evaluation losses and the rows of each concept. A loss that is not finite is never the best."""
        lowest = [min((h[i] for h in self.history), default=float("inf")) for i in range(len(losses))]
        self.history.append(list(losses))
        if not self.best:
            self.best = list(rows)
        for index, (loss, low) in enumerate(zip(losses, lowest, strict=True)):
            if loss < low:
                self.best[index] = rows[index]

    def should_stop(self) -> bool:
        """Return whether the losses of every concept have stopped changing."""
        if len(self.history) < 2 * self.window:
            return False
        curves = [list(curve) for curve in zip(*self.history, strict=True)]
        return all(pvariance(curve[-self.window :]) < self.threshold * pvariance(curve) for curve in curves)
