"""The distributions of sigma in the training of a flow, as quantile functions. This module does not need torch.

A noise level from 0 to 1 is a quantile of the distribution, so that levels that are spread evenly cover it evenly. All
functions compute in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

FlowSampling = Literal[
    "logit_normal", "sigma", "uniform", "sigmoid", "shift", "flux_shift", "flux2_shift", "inverted_parabola"
]
STEPS = 1000  # timesteps are thousandths of sigma, as in diffusers
LEAST_QUANTILE = 2.0**-53  # 0 and 1 are at infinity
PARABOLA_TOP, PARABOLA_CURVE = 2.0, 7.7  # OneTrainer's numbers for Chroma


@dataclass(frozen=True)
class ShiftLine:
    """A shift that depends on the size of images: its logarithm is a line over the number of image tokens.

    The line continues on both sides of its ends. The default is that of FLUX.1.
    """

    first_tokens: int = 256
    first_mu: float = 0.5
    last_tokens: int = 4096
    last_mu: float = 1.15

    def shift(self, tokens: int) -> float:
        """Return the shift for images of this many tokens."""
        slope = (self.last_mu - self.first_mu) / (self.last_tokens - self.first_tokens)
        return math.exp(self.first_mu + slope * (tokens - self.first_tokens))


FLUX_LINE = ShiftLine()


@dataclass(frozen=True)
class FlowSpec:
    """A frozen record of how a family of flows is trained, unless the user says otherwise."""

    sampling: FlowSampling = "logit_normal"
    shift: float = 1.0  # used by `sigma` and `shift`, and by `logit_normal` if there is no `line`
    line: ShiftLine | None = None  # used by `logit_normal`
    rounds_sigma: bool = False  # the network rounds sigma to its own precision before it scales it
    source: str = "Esser et al. 2024"  # where the sampling and the shift come from


def shifted(sigma: float, shift: float) -> float:
    """Return sigma after a shift; one above 1 moves it towards noise (Esser et al. 2024, eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def logit_normal(level: float, mean: float = 0.0, std: float = 1.0) -> float:
    """Return a quantile of sigmoid(mean + std n), where n is normal (Esser et al. 2024, eq. 19)."""
    logit = mean + std * NormalDist().inv_cdf(min(max(level, LEAST_QUANTILE), 1 - LEAST_QUANTILE))
    return 1 / (1 + math.exp(-logit)) if logit > 0 else math.exp(logit) / (1 + math.exp(logit))


def mode(level: float, scale: float) -> float:
    """Return a quantile of 1 - f(u), where f(u) = 1 - u - scale (cos^2(pi u / 2) - 1 + u) and u is uniform.

    See Esser et al. 2024, eq. 20. It increases if the scale is from -1 to 2 / (pi - 2).
    """
    return level + scale * (math.cos(math.pi * level / 2) ** 2 - 1 + level)


def inverted_parabola(level: float) -> float:
    """Return a quantile of the density proportional to 2 - 7.7 (sigma - 1/2)^2.

    With x = sigma - 1/2, the integral top x - curve x^3 / 3 is a share of the whole; with r = sqrt(top / curve),
    x = 2 r sin(a) solves it, because sin(3 a) = 3 sin(a) - 4 sin^3(a).
    """
    top, curve = PARABOLA_TOP, PARABOLA_CURVE
    integral = (2 * level - 1) * (top / 2 - curve / 24)
    root = math.sqrt(top / curve)
    sigma = 0.5 + 2 * root * math.sin(math.asin(1.5 * integral / (curve * root**3)) / 3)
    return min(max(sigma, 0.0), 1.0)  # rounding errors


def in_table(share: float, shift: float) -> float:
    """Return the shifted sigma of one of the 1000 timesteps, at a share of the way from the least noise to pure noise."""
    step = min(max(math.floor(share * STEPS) + 1, 1), STEPS)
    return shifted(step / STEPS, shift)
