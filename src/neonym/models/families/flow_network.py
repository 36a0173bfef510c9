"""Define what the networks of rectified flows share: how they are loaded, their time, and packed latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from neonym.io.transfer import picked
from neonym.models.encoders.sequence import by_length
from neonym.models.loading.parts import flow_of, load_parts, vae_of
from neonym.models.model import Model
from neonym.models.process.sigmas import STEPS
from neonym.models.source import ModelSource
from neonym.models.text_side import TextSide
from neonym.models.vae import Vae
from neonym.types import Conditions, TextCond

AnyModel = TypeVar("AnyModel", bound=Model)
UNDISTILLED = 1.0  # the guidance scale at which a guidance-distilled model predicts without guidance


def load_as(
    kind: type[AnyModel], source: ModelSource, text: type[TextSide], device: torch.device, dtype: torch.dtype,
    vae: type[Vae] = Vae, **text_options: Any,
) -> AnyModel:  # fmt: skip
    """Return a model of the class `kind` with its weights, and a text side of the class `text` with `text_options`.

    Its VAE is of the class `vae`. Raises ModelError if weights or configs cannot be read.
    """
    parts = load_parts(source, device, dtype)
    encoders: Any = {name: parts[name] for name in source.encoders}
    scheduler, process = source.configs["scheduler"], flow_of(source, dtype)
    side, denoiser = text(encoders, **text_options), parts[source.family.denoiser.part]
    side.adapters = {name: parts[name] for name in source.family.adapters}
    return kind(source, denoiser, side, vae_of(source, parts, vae), process, scheduler)


def lengths_of(text: TextCond) -> list[int]:
    """Return how many states of each text are read, B numbers. Waits for the device if the host does not know."""
    if text.lengths is not None:
        return text.lengths
    return [text.sequence.shape[1]] * len(text.sequence) if text.mask is None else text.mask.sum(1).tolist()


def by_text_length(text: TextCond, predict: Callable[[list[int], int], Tensor]) -> Tensor:
    """Return the predictions [B,C,h,w] for samples whose texts go through a transformer without a mask.

    Texts of unlike length go separately: `predict` returns the predictions [b,C,h,w] for the samples with the given
    indices, whose texts have a length.
    """
    found: list[Tensor] = [text.sequence] * len(text.sequence)
    for length, which in by_length(lengths_of(text)):
        for i, prediction in zip(which, predict(which, length), strict=True):
            found[i] = prediction
    return torch.stack(found)


def predict_by_text_length(model: Model, x_t: Tensor, t: Tensor, text: TextCond, conditions: Conditions) -> Tensor:
    """Return a model's predictions [B,C,h,w] for texts of unlike length, which `text.mask` tells, each length separately.

    Raises ValueError if the text has no mask.
    """
    if text.mask is None:
        raise ValueError("texts of unlike length need a mask")
    times = t.expand(len(x_t))

    def predict(which: list[int], length: int) -> Tensor:
        pooled = None if text.pooled is None else picked(text.pooled, which)
        own = TextCond(picked(text.sequence, which)[:, :length], pooled)
        return model.predict(
            picked(x_t, which), picked(times, which), own, conditions.mapped(lambda tensor: picked(tensor, which))
        )

    return by_text_length(text, predict)


def sigma_of(t: Tensor, count: int) -> Tensor:
    """Return the noise levels sigma, float32 [B] in 0..1, of timesteps [B], or of one timestep for `count` samples."""
    return (t.float() / STEPS).expand(count)


def guidance_of(source: ModelSource, conditions: Conditions, count: int, device: torch.device) -> Tensor | None:
    """Return the guidance scales, float32 [B], that the denoiser reads, each 1 if the conditions have none.

    Return None for a model that reads none.
    """
    if source.facts.embedded_guidance is None:
        return None
    return torch.full((count,), UNDISTILLED, device=device) if conditions.guidance is None else conditions.guidance


def pack(latents: Tensor) -> Tensor:
    """Return latents [B,C,h,w] as tokens of 2 x 2 neighbours, [B,N,4C], whose channels are in the order C, y, x."""
    blocks = latents.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # [B,C,h/2,2,w/2,2]
    return blocks.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Return tokens [B,N,4C] as latents [B,C,h,w], the inverse of `pack`."""
    blocks = tokens.unflatten(2, (-1, 2, 2)).unflatten(1, (height // 2, width // 2))  # [B,h/2,w/2,C,2,2]
    return blocks.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def image_positions(height: int, width: int, device: torch.device) -> Tensor:
    """Return the positions (0, row, column) of an image's tokens, float32 [h*w,3]."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    return torch.cartesian_prod(rows.new_zeros(1), rows, columns).float()
