"""Models with a U-Net, CLIP text encoders and a noise schedule of discrete timesteps."""

from __future__ import annotations

from typing import Any, TypeVar

import diffusers
import torch
from torch import Tensor

from neonym.errors import ModelError
from neonym.io.pickles import first_line
from neonym.models.loading.parts import load_parts, vae_of
from neonym.models.model import Model
from neonym.models.process.diffusion import Diffusion
from neonym.models.source import ModelSource
from neonym.models.text_side import TextSide


class UNetModel(Model):
    """A frozen model with a U-Net."""

    def compile(self, backend: str) -> None:
        """Compile the U-Net with torch.compile; on a CPU its upsamplers stay as they are.

        Compiled by inductor in bfloat16 there, they pass on gradients of zero (torch 2.13), and shapes that are left open
        do not compile.
        """
        for block in self.denoiser.up_blocks if self.device.type == "cpu" else ():  # pyright: ignore
            for upsampler in block.upsamplers or ():  # pyright: ignore
                upsampler.forward = torch.compiler.disable(upsampler.forward)
        super().compile(backend)


AnyModel = TypeVar("AnyModel", bound=UNetModel)


def load_as(
    kind: type[AnyModel], source: ModelSource, text: type[TextSide], device: torch.device, dtype: torch.dtype,
    **of_text: Any,
) -> AnyModel:  # fmt: skip
    """Return a model of this kind with its weights and its text side. Raises ModelError."""
    parts = load_parts(source, device, dtype)
    encoders: Any = {name: parts[name] for name in source.encoders}
    scheduler = noise_schedule(source)
    process = Diffusion(scheduler.alphas_cumprod.float(), scheduler.config.prediction_type)
    denoiser = parts[source.family.denoiser.part]
    return kind(source, denoiser, text(encoders, **of_text), vae_of(source, parts), process, scheduler.config)


def noise_schedule(source: ModelSource) -> Any:
    """Return the noise schedule that the model was trained with. Raises ModelError."""
    try:
        return diffusers.DDPMScheduler.from_config(source.configs["scheduler"])
    except Exception as error:  # whatever stands in the config
        raise ModelError(
            f"its scheduler's config is odd ({first_line(error)})", source.name, "Fetch it again"
        ) from error


def renamed(tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights of a U-Net with original names under those of diffusers."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    return convert_ldm_unet_checkpoint(tensors, config)
