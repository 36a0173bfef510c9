"""Use the VAE of Qwen-Image, Anima and Krea 2: a VAE for videos, which encodes an image as a video of one frame."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from neonym.models.vae import Vae, as_factor


class QwenImageVae(Vae):
    """A VAE for videos (AutoencoderKLQwenImage), which normalises each channel with the mean and spread it records."""

    def __init__(self, module: Any, *normalisation: Any):
        super().__init__(module, *normalisation)
        config = module.config  # with the values of the class for whatever its file leaves out
        self.shift = as_factor(tuple(config.latents_mean))
        self.scale = as_factor(tuple(1 / spread for spread in config.latents_std))

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the moments (mean and log-variance) [B,2C,h,w] of the posterior, for pixels [B,3,H,W] from -1 to 1."""
        return super().encode(pixels[:, :, None])[:, :, 0]

    def decoded(self, latents: Tensor) -> Tensor:
        """Return images [B,3,H,W] of latents [B,C,h,w] that are not normalised."""
        return super().decoded(latents[:, :, None])[:, :, 0]
