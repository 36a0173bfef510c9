"""Rectified flow: a straight line leads from a latent to noise, and the model predicts its direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from neonym.io.transfer import sent
from neonym.models.process.noise import Key, NoiseRules
from neonym.models.process.sigmas import (
    FLUX_LINE,
    STEPS,
    FlowSampling,
    FlowSpec,
    ShiftLine,
    in_table,
    inverted_parabola,
    logit_normal,
    mode,
    shifted,
)
from neonym.types import Noisy

LEAST_SIGMA = 1e-5  # without noise there is nothing to learn, and the SNR is infinite


@dataclass(frozen=True)
class Flow:
    """A rectified flow (Liu et al. 2022): x_s = (1 - s) x_0 + s noise, for sigma s in 0..1; the target is noise - x_0.

    The names of `sampling` and of the numbers below it are those of sd-scripts; `logit_normal` and `inverted_parabola`
    are additions.
    """

    shift: float = 1.0
    sampling: FlowSampling = "logit_normal"
    rules: NoiseRules = field(default_factory=NoiseRules)
    line: ShiftLine | None = None  # instead of `shift`, with `logit_normal`
    patch: int = 1  # side, in latents, of an image token
    precision: torch.dtype | None = None  # of the network, if it rounds sigma: x_s is then mixed with the rounded sigma
    sigmoid_scale: float = 1.0
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29
    weighting_scheme: str = "none"  # with `sigma`, `logit_normal` and `mode` are densities of timesteps

    @classmethod
    def of(cls, spec: FlowSpec, patch: int, dtype: torch.dtype) -> Flow:
        """Return the flow of a family, for a network of this precision that reads patches of `patch` latents."""
        rounds = spec.rounds_sigma and dtype != torch.float32
        return cls(spec.shift, spec.sampling, line=spec.line, patch=patch, precision=dtype if rounds else None)

    def sigmas(self, levels: Sequence[float], tokens: int = 0) -> Tensor:
        """Return the sigmas, float32 [B], of noise levels from 0 to 1, for images of this many tokens.

        Levels are quantiles of sigma's distribution.
        """
        low, high = self.rules.min_timestep / STEPS, self.rules.max_timestep / STEPS
        drawn = [low + self.quantile(level, tokens) * (high - low) for level in levels]
        found = torch.tensor([max(sigma, LEAST_SIGMA) for sigma in drawn], dtype=torch.float64).float()
        return found if self.precision is None else found.to(self.precision).float()

    def quantile(self, level: float, tokens: int) -> float:
        """Return the quantile `level` of sigma's distribution, before it is narrowed to min_timestep..max_timestep."""
        if self.sampling == "uniform":
            return level
        if self.sampling == "inverted_parabola":
            return inverted_parabola(level)
        if self.sampling == "sigma":
            return in_table(self.share_of_table(level), self.shift)
        if self.sampling == "logit_normal":
            shift = self.line.shift(tokens) if self.line else self.shift
            return shifted(logit_normal(level, self.logit_mean, self.logit_std), shift)
        shift = {"sigmoid": 1.0, "shift": self.shift}.get(self.sampling) or FLUX_LINE.shift(tokens)
        return shifted(logit_normal(level, 0.0, self.sigmoid_scale), shift)

    def share_of_table(self, level: float) -> float:
        """Return the quantile `level` of the position in the table of timesteps, from 0 to 1 (pure noise).

        The densities count timesteps from pure noise, as sd-scripts and diffusers do: a logit_mean above 0 means less
        noise.
        """
        if self.weighting_scheme == "logit_normal":
            return logit_normal(level, -self.logit_mean, self.logit_std)
        return mode(level, self.mode_scale) if self.weighting_scheme == "mode" else level

    def add_noise(self, x0: Tensor, keys: Sequence[Key], levels: Sequence[float]) -> Noisy:
        """Return latents [B,C,h,w] noised to levels from 0 to 1, and the velocity that the model should predict."""
        height, width = x0.shape[-2:]
        tokens = (height // self.patch) * (width // self.patch)
        sigma = sent(self.sigmas(levels, tokens), x0.device)  # [B]
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
