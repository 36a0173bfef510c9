"""Thin reads of the model's names of today, until the Family record and the model's VAE object are on `main`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from neonym.models.model import Model
    from neonym.models.source import ModelSource
    from neonym.types import TextCond


@dataclass(frozen=True)
class Family:
    """What generation reads of a family."""

    name: str
    label: str
    reads_sizes: bool = False
    fixed_text_layer: bool = False
    vae_overflows: bool = False
    flag: str | None = None
    process: Literal["diffusion", "flow"] = "diffusion"
    pipeline: str = "StableDiffusionPipeline"


@dataclass(frozen=True)
class Latents:
    """What generation reads of a family's latents."""

    channels: int = 4
    pixels: int = 8
    multiple: int = 8


FAMILIES = (
    Family("sd1", "Stable Diffusion 1.x", flag="v1"),
    Family("sd2", "Stable Diffusion 2.x", flag="v2"),
    Family("sdxl", "SDXL", True, True, True, "sdxl", pipeline="StableDiffusionXLPipeline"),
)


def families() -> tuple[Family, ...]:
    return FAMILIES


def family_named(name: str) -> Family | None:
    return next((family for family in FAMILIES if family.name == name), None)


def family_of(source: ModelSource) -> Family:
    """`source.family`."""
    return family_named(source.family) or Family(source.family, source.family)


def latents_of(source: ModelSource) -> Latents:
    """`source.latents`."""
    del source
    return Latents()


def predict(model: Model, x_t: Tensor, t: Tensor, text: TextCond, sizes: Tensor | None) -> Tensor:
    """`model.predict`."""
    return model.denoise(x_t, t, text, sizes)


def scheduler_config(model: Any) -> Any:
    """`model.scheduler_config`."""
    return model.scheduler.config


def begins_at_pure_noise(model: Model) -> bool:
    """`model.process.begins_at_pure_noise`."""
    return float(model.process.alphas_cumprod[-1]) == 0


def denoiser(model: Any) -> torch.nn.Module:
    """`model.denoiser`."""
    return model.unet


class Codec:
    """What `model.vae` does."""

    def __init__(self, model: Any):
        self.vae, self.device = model.vae, model.device

    def to(self, device: torch.device, dtype: torch.dtype) -> Codec:
        self.vae.to(device, dtype)
        return self

    def tile(self) -> None:
        self.vae.enable_tiling()

    def encode(self, pixels: Tensor) -> Tensor:
        return self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist.parameters

    def mean(self, moments: Tensor) -> Tensor:
        return moments.chunk(2, dim=1)[0].float() * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype)).sample.float()


def codec(model: Model) -> Codec:
    """`model.vae`."""
    return Codec(model)
