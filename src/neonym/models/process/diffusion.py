"""Diffusion: latents are noised at discrete timesteps, and the model predicts the noise or a velocity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from neonym.io.transfer import sent
from neonym.models.process.noise import Key, NoiseRules
from neonym.types import Noisy


@dataclass(frozen=True)
class Diffusion:
    """A discrete variance-preserving process (Ho et al. 2020): x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise."""

    alphas_cumprod: Tensor  # float32 [T]
    prediction_type: str  # "epsilon" | "v_prediction"
    rules: NoiseRules = field(default_factory=NoiseRules)

    def timesteps(self, levels: Sequence[float]) -> Tensor:
        """Return the timesteps, int64 [B] below max_timestep, of noise levels from 0 to 1 (excluded)."""
        low, high = self.rules.min_timestep, min(self.rules.max_timestep, len(self.alphas_cumprod))
        return torch.tensor([low + math.floor(level * (high - low)) for level in levels])

    def add_noise(self, x0: Tensor, keys: Sequence[Key], levels: Sequence[float]) -> Noisy:
        """Return latents [B,C,h,w] noised to levels from 0 to 1, and the target of the model.

        The target is the noise, or the velocity sqrt(a_t) noise - sqrt(1 - a_t) x_0 (Salimans & Ho 2022).
        """
        t = self.timesteps(levels)
        alpha = sent(self.alphas_cumprod[t], x0.device)  # [B]
        a = alpha[:, None, None, None]
        noise = self.rules.noise(x0, keys)
        extra = self.rules.perturbation(x0, keys)
        x_t = a.sqrt() * x0 + (1 - a).sqrt() * (noise if extra is None else noise + extra)
        velocity = self.prediction_type == "v_prediction"
        target = a.sqrt() * noise - (1 - a).sqrt() * x0 if velocity else noise
        return Noisy(x_t, target, sent(t, x0.device), alpha / (1 - alpha), velocity)

    def with_rules(self, rules: NoiseRules) -> Diffusion:
        """Return the process with other noise rules."""
        return replace(self, rules=rules)

    @property
    def begins_at_pure_noise(self) -> bool:
        """Whether the last timestep is pure noise."""
        return float(self.alphas_cumprod[-1]) == 0

    def with_zero_terminal_snr(self) -> Diffusion:
        """Return the process with a last timestep of pure noise.

        sqrt(a_t) is shifted to end at 0 and scaled to keep its start (Lin et al. 2023, algorithm 1).
        """
        root = self.alphas_cumprod.double().sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        return Diffusion(root.square().float(), self.prediction_type, self.rules)
