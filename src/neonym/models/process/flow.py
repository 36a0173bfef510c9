"""Rectified flow: a straight line leads from a latent to noise, and the model predicts its direction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor

from neonym.models.process.noise import Key, NoiseRules
from neonym.types import Noisy

STEPS = 1000  # timesteps are thousandths of sigma, as in diffusers
LEAST = 1e-4  # lowest quantile: 0 and 1 are at infinity


@dataclass(frozen=True)
class Flow:
    """A rectified flow (Liu et al. 2022): x_s = (1 - s) x_0 + s noise, for sigma s in 0..1; the target is noise - x_0."""

    shift: float = 1.0  # sigma becomes shift s / (1 + (shift - 1) s) (Esser et al. 2024, eq. 23)
    sampling: Literal["logit_normal", "uniform"] = "logit_normal"  # distribution of sigma in training (ibid., eq. 19)
    rules: NoiseRules = field(default_factory=NoiseRules)

    def sigmas(self, levels: Sequence[float]) -> Tensor:
        """Return the sigmas, float32 [B], of noise levels from 0 to 1. Levels are quantiles of sigma's distribution."""
        low, high = self.rules.min_timestep / STEPS, self.rules.max_timestep / STEPS
        drawn = [self.shifted(self.quantile(level)) for level in levels]
        return torch.tensor([low + s * (high - low) for s in drawn], dtype=torch.float32)

    def quantile(self, level: float) -> float:
        """Return the quantile `level` of sigma's distribution, before the shift."""
        if self.sampling == "uniform":
            return level
        normal = NormalDist().inv_cdf(min(max(level, LEAST), 1 - LEAST))
        return 1 / (1 + math.exp(-normal))

    def shifted(self, sigma: float) -> float:
        """Return sigma after the shift; a shift above 1 moves it towards noise."""
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)

    def add_noise(self, x0: Tensor, keys: Sequence[Key], levels: Sequence[float]) -> Noisy:
        """Return latents [B,C,h,w] noised to levels from 0 to 1, and the velocity that the model should predict."""
        sigma = self.sigmas(levels).to(x0.device)  # [B]
        s = sigma[:, None, None, None]
        noise = self.rules.noise(x0, keys)
        extra = self.rules.perturbation(x0, keys)
        x_t = (1 - s) * x0 + s * (noise if extra is None else noise + extra)
        return Noisy(x_t, noise - x0, STEPS * sigma, ((1 - sigma) / sigma).square(), velocity=True)

    def with_rules(self, rules: NoiseRules) -> Flow:
        """Return the process with other noise rules."""
        return replace(self, rules=rules)

    @property
    def begins_at_pure_noise(self) -> bool:
        """Whether the last timestep is pure noise, which is always true of a flow."""
        return True
