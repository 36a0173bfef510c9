"""The sampling loop of every family: from noise to latents, through a scheduler of diffusers.

The same loop generates from text alone, from an image (Meng et al. 2022, SDEdit: noise is added and part of the steps
remain) and within a mask (after each step, what the mask keeps is set to the noised image again). Step by step it does
what diffusers' pipelines do, and gives the same latents.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

Predict: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # x_t [B,C,h,w], t [] -> the guided prediction [B,C,h,w]

MULTISTEP_ORDER = 4  # of diffusers' LMS
PATCH = 2  # latents per side of what a transformer reads as one token
DYNAMIC_SHIFT = {  # FLUX.1's, for a scheduler's config that leaves them out
    "base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15,
}  # fmt: skip


@dataclass(frozen=True)
class Start:
    """The images that a batch begins from: latents [B,C,h,w], a strength from 0 to 1, and a mask [B,1,h,w] or None.

    The mask is 1 where something new is generated and 0 where the image is kept.
    """

    latents: Tensor
    strength: float
    mask: Tensor | None = None

    @property
    def is_noise(self) -> bool:
        """Return whether sampling begins at pure noise: the whole of a masked part is new."""
        return self.mask is not None and self.strength == 1


def sample(
    scheduler: Any,
    predict: Predict,
    noise: Tensor,
    generators: Sequence[torch.Generator],
    steps: int,
    start: Start | None = None,
    progress: bool = False,
) -> Tensor:
    """Return the latents [B,C,h,w] that `steps` steps make of `noise` [B,C,h,w], in float32.

    `generators` give each image the noise that ancestral and stochastic samplers add, from a seed of its own.
    """
    from tqdm import tqdm

    if (
        start is not None and start.mask is not None
    ):  # the layout of diffusers' pipelines, which decides last bits on a CPU
        start = replace(start, latents=start.latents.contiguous())
    timesteps = timesteps_of(scheduler, steps, noise, start)  # [T]
    latents = first_latents(scheduler, noise, timesteps, start)
    for i, t in enumerate(tqdm(timesteps, disable=not progress, leave=False)):
        scaled = scheduler.scale_model_input(latents, t) if hasattr(scheduler, "scale_model_input") else latents
        options = step_options(scheduler, generators)
        latents = scheduler.step(predict(scaled, t), t, latents, return_dict=False, **options)[0]
        if start is not None and start.mask is not None:
            following = timesteps[i + 1 : i + 2]  # [1], or [0] after the last step
            kept = noised(scheduler, start.latents, noise, following) if len(following) else start.latents
            latents = (1 - start.mask) * kept + start.mask * latents
    return latents


def timesteps_of(scheduler: Any, steps: int, noise: Tensor, start: Start | None) -> Tensor:
    """Set the scheduler to `steps` steps and return the timesteps that are left from `start` on, [T]."""
    scheduler.set_timesteps(steps, device=noise.device, **flow_options(scheduler, steps, noise))
    if start is None:
        return scheduler.timesteps
    skipped = (steps - int(steps * start.strength)) * scheduler.order
    left = scheduler.timesteps[skipped:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    if skipped and hasattr(scheduler, "plms_timesteps"):  # PNDM takes its second step twice, wherever it begins
        return torch.cat([left[1:2], left[2:3], left[2:]])
    return left


def flow_options(scheduler: Any, steps: int, noise: Tensor) -> dict[str, Any]:
    """Return what a rectified flow's scheduler is set with: noise levels from 1 to 1/steps, and FLUX.1's dynamic shift.

    mu grows with the number of tokens, from base_shift at base_image_seq_len to max_shift at max_image_seq_len.
    """
    if "sigmas" not in inspect.signature(scheduler.set_timesteps).parameters or not is_flow(scheduler):
        return {}
    options: dict[str, Any] = {"sigmas": torch.linspace(1, 1 / steps, steps, dtype=torch.float64).tolist()}
    if scheduler.config.get("use_dynamic_shifting"):
        fewest, most, low, high = (scheduler.config.get(name, usual) for name, usual in DYNAMIC_SHIFT.items())
        tokens = noise.shape[2] * noise.shape[3] / PATCH**2
        options["mu"] = low + (high - low) * (tokens - fewest) / (most - fewest)
    return options


def is_flow(scheduler: Any) -> bool:
    """Return whether a scheduler mixes image and noise as a rectified flow does."""
    return hasattr(scheduler, "scale_noise")


def first_latents(scheduler: Any, noise: Tensor, timesteps: Tensor, start: Start | None) -> Tensor:
    """Return what the first step begins from, [B,C,h,w]: pure noise, or noised images."""
    if start is None or start.is_noise:
        return noise * getattr(scheduler, "init_noise_sigma", 1.0)
    return noised(scheduler, start.latents, noise, timesteps[:1])


def noised(scheduler: Any, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return latents [B,C,h,w] mixed with noise as they are at timestep `t` [1]."""
    if is_flow(scheduler):
        return scheduler.scale_noise(latents, t, noise)
    return scheduler.add_noise(latents, noise, t)


def step_options(scheduler: Any, generators: Sequence[torch.Generator]) -> dict[str, Any]:
    """Return what a scheduler's step takes beside the prediction: the images' generators, and LMS its order.

    diffusers' LMS relies on its first steps, which are left out where sampling begins from an image.
    """
    takes = inspect.signature(scheduler.step).parameters
    options: dict[str, Any] = {"generator": list(generators)} if "generator" in takes else {}
    if "order" in takes:
        options["order"] = min(MULTISTEP_ORDER, len(scheduler.derivatives) + 1)
    return options
