"""Draw keyed Gaussian noise, with sd-scripts' variations of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from neonym.io.transfer import sent
from neonym.seeds import dice, stream

Key = tuple[int, int, int]


def keyed_noise(like: Tensor, keys: Sequence[Key], purpose: str) -> Tensor:
    """Return Gaussian noise of the shape of `like`, from one keyed stream per sample.

    It is the same on every device and in any batch.
    """
    rows = [torch.randn(like.shape[1:], generator=stream(*key, purpose)) for key in keys]
    return sent(torch.stack(rows), like.device)


def keyed_share(like: Tensor, keys: Sequence[Key], purpose: str) -> Tensor:
    """Return one uniform random number from 0 to 1 for each sample, [B,1,1,1]."""
    shares = torch.tensor([dice(*key, purpose).random() for key in keys], dtype=torch.float32)
    return sent(shares[:, None, None, None], like.device)


@dataclass(frozen=True)
class NoiseRules:
    """Variations of Gaussian noise and uniform timesteps, named like sd-scripts' flags.

    Random strengths are drawn per sample, by its key, not once per batch, so the noise of a sample does not depend on
    the others in its batch.
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
        """Return the noise that the model should predict, for latents of the same shape [B,C,h,w]."""
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
        """Return the sum of noise at decreasing resolutions and strengths, each upscaled to [1,C,h,w]."""
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
        """Return the perturbation [B,C,h,w] of the model's input noise (not of its target), or None if there is none."""
        if not self.ip_noise_gamma:
            return None
        extra = self.ip_noise_gamma * keyed_noise(x0, keys, "perturbation")
        return extra * keyed_share(x0, keys, "perturbation strength") if self.ip_noise_gamma_random_strength else extra
