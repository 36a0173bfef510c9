"""The noising process: how a latent is noised and what the model is to say about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from neonym.seeds import dice, stream
from neonym.types import Noisy

Key = tuple[int, int, int]


def keyed_noise(like: Tensor, keys: Sequence[Key], purpose: str) -> Tensor:
    """Gaussian noise of the shape of `like`, one keyed stream per sample: the same on every device and in any batch."""
    rows = [torch.randn(like.shape[1:], generator=stream(*key, purpose)) for key in keys]
    return torch.stack(rows).to(like.device)


def keyed_share(like: Tensor, keys: Sequence[Key], purpose: str) -> Tensor:
    """One uniform number in 0..1 for each sample. -> [B,1,1,1]"""
    shares = torch.tensor([dice(*key, purpose).random() for key in keys], dtype=torch.float32)
    return shares[:, None, None, None].to(like.device)


@dataclass(frozen=True)
class NoiseRules:
    """Departures from plain Gaussian noise and uniform timesteps, with sd-scripts' names (training.md section 6).

    Every random strength is drawn for each sample by its key, not once for a batch: a sample's noise does not depend
    on its neighbours.
    """

    noise_offset: float = 0.0  # Guttenberg 2023, "Diffusion with offset noise"
    noise_offset_random_strength: bool = False
    adaptive_noise_scale: float = 0.0
    multires_noise_iterations: int = 0  # Whitaker 2023, "Multi-resolution noise"
    multires_noise_discount: float = 0.3
    ip_noise_gamma: float = 0.0  # Ning et al. 2023, "Input perturbation"
    ip_noise_gamma_random_strength: bool = False
    min_timestep: int = 0
    max_timestep: int = 1000

    def noise(self, x0: Tensor, keys: Sequence[Key]) -> Tensor:
        """The noise that the model is asked for. [B,C,h,w] -> [B,C,h,w]"""
        noise = keyed_noise(x0, keys, "noise")
        if self.noise_offset:
            strength = torch.full_like(x0[:, :1, :1, :1], self.noise_offset)  # [B,1,1,1]
            if self.noise_offset_random_strength:
                strength = strength * keyed_share(x0, keys, "offset strength")
            if self.adaptive_noise_scale:
                mean = x0.mean((2, 3), keepdim=True).abs()  # [B,C,1,1]
                strength = (strength + self.adaptive_noise_scale * mean).clamp(min=0)
            noise = noise + strength * keyed_noise(x0[:, :, :1, :1], keys, "offset")
        if self.multires_noise_iterations:
            pyramids = [self.pyramid(x0[i : i + 1], key) for i, key in enumerate(keys)]
            noise = noise + torch.cat(pyramids)
            noise = noise / noise.std((1, 2, 3), keepdim=True)
        return noise

    def pyramid(self, like: Tensor, key: Key) -> Tensor:
        """Noise of ever lower resolutions and strengths, scaled up to [1,C,h,w]."""
        height, width = like.shape[2:]
        total = torch.zeros_like(like)
        for level in range(self.multires_noise_iterations):
            shrink = dice(*key, "multires", level).uniform(2, 4) ** level
            size = (max(1, int(height / shrink)), max(1, int(width / shrink)))
            coarse = keyed_noise(like.new_zeros(1, like.shape[1], *size), [key], f"multires {level}")
            total += self.multires_noise_discount**level * interpolate(coarse, (height, width), mode="bilinear")
            if 1 in size:
                break
        return total

    def perturbation(self, x0: Tensor, keys: Sequence[Key]) -> Tensor | None:
        """What is added to the noise that the model sees, but not to what it is asked for. -> [B,C,h,w]"""
        if not self.ip_noise_gamma:
            return None
        extra = self.ip_noise_gamma * keyed_noise(x0, keys, "perturbation")
        return extra * keyed_share(x0, keys, "perturbation strength") if self.ip_noise_gamma_random_strength else extra


@dataclass(frozen=True)
class Diffusion:
    """A discrete variance-preserving process (Ho et al. 2020): x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise."""

    alphas_cumprod: Tensor  # float32 [T]
    prediction_type: str  # "epsilon" | "v_prediction"
    rules: NoiseRules = NoiseRules()

    def timesteps(self, levels: Sequence[float]) -> Tensor:
        """Noise levels in 0..1 (1 excluded) -> int64 [B] in min_timestep..max_timestep (excluded)."""
        low, high = self.rules.min_timestep, min(self.rules.max_timestep, len(self.alphas_cumprod))
        return torch.tensor([low + math.floor(level * (high - low)) for level in levels])

    def add_noise(self, x0: Tensor, keys: Sequence[Key], levels: Sequence[float]) -> Noisy:
        """x0 [B,C,h,w] -> its noised form and the target, at the given noise levels.

        The target is the noise, or the velocity sqrt(a_t) noise - sqrt(1 - a_t) x_0 (Salimans & Ho 2022).
        """
        t = self.timesteps(levels)
        alpha = self.alphas_cumprod[t].to(x0.device)  # [B]
        a = alpha[:, None, None, None]
        noise = self.rules.noise(x0, keys)
        extra = self.rules.perturbation(x0, keys)
        x_t = a.sqrt() * x0 + (1 - a).sqrt() * (noise if extra is None else noise + extra)
        velocity = self.prediction_type == "v_prediction"
        target = a.sqrt() * noise - (1 - a).sqrt() * x0 if velocity else noise
        return Noisy(x_t, target, t.to(x0.device), alpha / (1 - alpha), velocity)

    def with_zero_terminal_snr(self) -> Diffusion:
        """The last step becomes pure noise: sqrt(a_t) shifted to end at 0, scaled to keep its start (Lin et al. 2023, alg. 1)."""
        root = self.alphas_cumprod.double().sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        return Diffusion(root.square().float(), self.prediction_type, self.rules)
