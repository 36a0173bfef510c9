"""Define models with a U-Net, CLIP text encoders and a noise schedule of discrete timesteps."""

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

AnyModel = TypeVar("AnyModel", bound=Model)


def load_as(
    kind: type[AnyModel], source: ModelSource, text: type[TextSide], device: torch.device, dtype: torch.dtype,
    **text_options: Any,
) -> AnyModel:  # fmt: skip
    """Return a model of the class `kind` with its weights, and a text side of the class `text` with `text_options`.

    Raises ModelError if weights or configs cannot be read.
    """
    parts = load_parts(source, device, dtype)
    encoders: Any = {name: parts[name] for name in source.encoders}
    scheduler = noise_schedule(source)
    process = Diffusion(scheduler.alphas_cumprod.float(), scheduler.config.prediction_type)
    denoiser = parts[source.family.denoiser.part]
    return kind(source, denoiser, text(encoders, **text_options), vae_of(source, parts), process, scheduler.config)


def noise_schedule(source: ModelSource) -> Any:
    """Return the noise schedule that the model was trained with. Raises ModelError if its config is invalid."""
    try:
        return diffusers.DDPMScheduler.from_config(source.configs["scheduler"])
    except Exception as error:  # an invalid config can fail in any way
        raise ModelError(
            f"its scheduler's config is invalid ({first_line(error)})", source.name, "Download it again"
        ) from error


def from_original_names(tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights of a U-Net, from the original names of the LDM layout to those of diffusers."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    return convert_ldm_unet_checkpoint(tensors, config)
