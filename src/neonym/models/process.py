"""The noising process: how a latent is noised and what the model is to say about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neonym.seeds import dice, stream
from neonym.types import Noisy

Key = tuple[int, int, int]


def keyed_noise(like: Tensor, keys: Sequence[Key], purpose: str) -> Tensor:
    """Gaussian noise of the shape of `like`, one keyed stream per sample: the same on every device and in any batch."""
    rows = [torch.randn(like.shape[1:], generator=stream(*key, purpose)) for key in keys]
    return torch.stack(rows).to(like.device)


@dataclass(frozen=True)
class Diffusion:
    """A discrete variance-preserving process (Ho et al. 2020): x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise."""

    alphas_cumprod: Tensor  # float32 [T]
    prediction_type: str  # "epsilon" | "v_prediction"

    def timesteps(self, keys: Sequence[Key]) -> Tensor:
        """Uniform over all steps. -> int64 [B]"""
        steps = len(self.alphas_cumprod)
        return torch.tensor([dice(*key, "timestep").randrange(steps) for key in keys])

    def add_noise(self, x0: Tensor, keys: Sequence[Key], t: Tensor | None = None) -> Noisy:
        """x0 [B,C,h,w] -> its noised form and the target. Without `t` the timesteps are drawn by key.

        The target is the noise, or the velocity sqrt(a_t) noise - sqrt(1 - a_t) x_0 (Salimans & Ho 2022).
        """
        t = self.timesteps(keys) if t is None else t
        alpha = self.alphas_cumprod[t].to(x0.device)[:, None, None, None]  # [B,1,1,1]
        noise = keyed_noise(x0, keys, "noise")
        x_t = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
        velocity = self.prediction_type == "v_prediction"
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * x0 if velocity else noise
        return Noisy(x_t, target, t.to(x0.device))
