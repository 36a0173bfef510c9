"""The sampling loop of all families, which turns noise into latents with a diffusers scheduler.

The same loop generates from text alone, from an image (SDEdit, Meng et al. 2022: noise is added to it and only the
remaining steps are taken) and within a mask (after each step, the part that the mask keeps is reset to the noised
image). It does the same as diffusers' pipelines, step by step, and gives the same latents.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from neonym.generation.guidance import Done

# x_t [B,C,h,w], t [], the steps that are done -> the guided prediction [B,C,h,w]
Predict: TypeAlias = Callable[[Tensor, Tensor, Done], Tensor]

LMS_ORDER = 4  # the highest order of diffusers' LMS


@dataclass(frozen=True)
class Start:
    """The images that a batch starts from: latents [B,C,h,w], a strength from 0 to 1, and a mask [B,1,h,w] or None.

    The mask is 1 where the image is regenerated and 0 where it is kept.
    """

    latents: Tensor
    strength: float
    mask: Tensor | None = None

    @property
    def is_noise(self) -> bool:
        """Whether sampling starts at pure noise, so that the masked part is entirely new."""
        return self.mask is not None and self.strength == 1


@dataclass(frozen=True)
class Levels:
    """A frozen record of how a family chooses the noise levels of a flow."""

    patch: int = 1  # side, in latents, of what the denoiser reads as one token (`LatentSpec.patch`)
    own: bool = False  # those of its scheduler, which end at almost 0 (`Family.own_levels`)
    mu: Callable[[float, int], float] | None = None  # the family's own shift (`Family.mu`)


def sample_latents(
    scheduler: Any,
    predict: Predict,
    noise: Tensor,
    generators: Sequence[torch.Generator],
    steps: int,
    start: Start | None = None,
    progress: bool = False,
    levels: Levels = Levels(),
) -> Tensor:
    """Return the latents [B,C,h,w], in float32, after `steps` steps from `noise` [B,C,h,w].

    `levels` tell how the family of the model chooses the noise levels of a flow. Ancestral and stochastic samplers add
    noise to each image from its own one of `generators`.
    """
    from tqdm import tqdm

    if start is not None and start.mask is not None:
        # The memory layout affects the last bits on a CPU, so it is the same as in diffusers' pipelines.
        start = replace(start, latents=start.latents.contiguous())
    timesteps = remaining_timesteps(scheduler, steps, noise, start, levels)  # [T]
    latents = initial_latents(scheduler, noise, timesteps, start)
    whole = len(scheduler.timesteps)
    for i, t in enumerate(tqdm(timesteps, disable=not progress, leave=False)):
        scaled = scheduler.scale_model_input(latents, t) if hasattr(scheduler, "scale_model_input") else latents
        options = step_options(scheduler, generators)
        done = Done(whole - len(timesteps) + i, whole)
        latents = scheduler.step(predict(scaled, t, done), t, latents, return_dict=False, **options)[0]
        if start is not None and start.mask is not None:
            following = timesteps[i + 1 : i + 2]  # [1], or [0] after the last step
            kept = add_noise(scheduler, start.latents, noise, following) if len(following) else start.latents
            latents = (1 - start.mask) * kept + start.mask * latents
    return latents


def remaining_timesteps(scheduler: Any, steps: int, noise: Tensor, start: Start | None, levels: Levels) -> Tensor:
    """Set the scheduler to `steps` steps and return the timesteps [T] that remain after `start`."""
    tokens = noise.shape[2] * noise.shape[3] / levels.patch**2
    scheduler.set_timesteps(steps, device=noise.device, **flow_options(scheduler, steps, tokens, levels))
    if start is None:
        return scheduler.timesteps
    skipped = (steps - int(steps * start.strength)) * scheduler.order
    left = scheduler.timesteps[skipped:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    if skipped and hasattr(scheduler, "plms_timesteps"):  # PNDM takes its second step twice, wherever it starts
        return torch.cat([left[1:2], left[2:3], left[2:]])
    return left


def flow_options(scheduler: Any, steps: int, tokens: float, levels: Levels) -> dict[str, Any]:
    """Return the options for setting a rectified flow's scheduler: noise levels, and a shift if its config asks for it.

    The levels go from 1 to 1/steps, unless they are the scheduler's own. The shift grows with the number of tokens, as
    the family says or else along a line: base_shift at base_image_seq_len, max_shift at max_image_seq_len. For other
    schedulers, there are no options.
    """
    if "sigmas" not in inspect.signature(scheduler.set_timesteps).parameters or not is_flow(scheduler):
        return {}
    evenly = torch.linspace(1, 1 / steps, steps, dtype=torch.float64).tolist()
    options: dict[str, Any] = {} if levels.own else {"sigmas": evenly}
    if scheduler.config.get("use_dynamic_shifting"):
        options["mu"] = levels.mu(tokens, steps) if levels.mu else mu_on_line(scheduler.config, tokens)
    return options


def mu_on_line(config: Any, tokens: float) -> float:
    """Return the shift for a number of tokens on the line through the two points in a scheduler's config."""
    fewest, most, low, high = (
        config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift,
    )  # fmt: skip
    return low + (high - low) * (tokens - fewest) / (most - fewest)


def is_flow(scheduler: Any) -> bool:
    """Return whether a scheduler is one for rectified flows."""
    return hasattr(scheduler, "scale_noise")


def initial_latents(scheduler: Any, noise: Tensor, timesteps: Tensor, start: Start | None) -> Tensor:
    """Return the latents [B,C,h,w] before the first step: pure noise, or noised images."""
    if start is None or start.is_noise:
        return noise * getattr(scheduler, "init_noise_sigma", 1.0)
    return add_noise(scheduler, start.latents, noise, timesteps[:1])


def add_noise(scheduler: Any, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return latents [B,C,h,w] mixed with noise for timestep `t` [1]."""
    if is_flow(scheduler):
        return scheduler.scale_noise(latents, t, noise)
    return scheduler.add_noise(latents, noise, t)


def step_options(scheduler: Any, generators: Sequence[torch.Generator]) -> dict[str, Any]:
    """Return the optional arguments that a scheduler's step takes: the images' generators and, for LMS, the order.

    diffusers' LMS relies on its first steps, which are skipped when sampling starts from an image.
    """
    takes = inspect.signature(scheduler.step).parameters
    options: dict[str, Any] = {"generator": list(generators)} if "generator" in takes else {}
    if "order" in takes:
        options["order"] = min(LMS_ORDER, len(scheduler.derivatives) + 1)
    return options
