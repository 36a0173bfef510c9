"""Convert between images and latents with a VAE."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from neonym.io.transfer import sent
from neonym.models.family import PerChannel
from neonym.models.process.noise import Key, keyed_noise


class Vae:
    """A frozen VAE. Latents are normalised as the denoiser expects: (latent - shift) x scale."""

    def __init__(self, module: AutoencoderKL, scaling_factor: PerChannel, shift_factor: PerChannel = 0.0):
        self.module = module
        self.scale, self.shift = as_factor(scaling_factor), as_factor(shift_factor)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its weights."""
        return self.module.dtype

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return self.module.device

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Return the moments (mean and log-variance) [B,2C,h,w] of the posterior, for pixels [B,3,H,W] from -1 to 1."""
        encoded = self.module.encode(pixels.to(self.device, self.dtype))
        return encoded.latent_dist.parameters  # pyright: ignore[reportAttributeAccessIssue]

    def draw(self, moments: Tensor, keys: Sequence[Key]) -> Tensor:
        """Return a normalised keyed draw [B,C,h,w] from the posterior with these moments [B,2C,h,w]."""
        mean, log_variance = moments.chunk(2, dim=1)
        spread = (0.5 * log_variance.clamp(-30, 20)).exp()
        return self.normalised(mean + spread * keyed_noise(mean, keys, "posterior"))

    def mean(self, moments: Tensor) -> Tensor:
        """Return the normalised mean [B,C,h,w] of the posterior with these moments [B,2C,h,w]."""
        return self.normalised(moments.chunk(2, dim=1)[0])

    def normalised(self, latents: Tensor) -> Tensor:
        """Return latents of the VAE, normalised for the denoiser, [B,C,h,w]."""
        scale, shift = on(latents, self.scale), on(latents, self.shift)
        return latents * scale if is_zero(shift) else (latents - shift) * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return images of normalised latents [B,C,h,w], float32 [B,3,H,W] of about -1 to 1."""
        scale, shift = on(latents, self.scale), on(latents, self.shift)
        own = latents / scale if is_zero(shift) else latents / scale + shift
        return self.decoded(own.to(self.dtype)).float()

    def decoded(self, latents: Tensor) -> Tensor:
        """Return images [B,3,H,W] of latents [B,C,h,w] that are not normalised."""
        return self.module.decode(latents).sample  # pyright: ignore

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> None:
        """Move the VAE to a device, and to a precision if one is given."""
        self.module.to(device=torch.device(device), dtype=dtype or self.dtype)  # pyright: ignore[reportCallIssue]

    def tile(self) -> None:
        """Let the VAE encode and decode large images in tiles, which takes less memory."""
        self.module.enable_tiling()


def as_factor(value: PerChannel) -> float | Tensor:
    """Return a factor of latents: one number as it is, or one for each channel as a tensor [C,1,1].

    One number stays a number, because torch rounds its product with a tensor on a GPU in another way.
    """
    return torch.tensor(value)[:, None, None] if isinstance(value, tuple) else value


def on(latents: Tensor, factor: float | Tensor) -> float | Tensor:
    """Return a factor on the device and in the precision of latents."""
    return sent(factor, latents.device).to(latents.dtype) if isinstance(factor, Tensor) else factor


def is_zero(factor: float | Tensor) -> bool:
    """Return whether a factor is the number 0."""
    return not isinstance(factor, Tensor) and factor == 0
