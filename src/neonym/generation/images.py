"""Prompts to pictures, in one call."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from neonym.errors import UserError
from neonym.generation.pipeline import Painter
from neonym.generation.request.jobs import Job
from neonym.generation.samplers import possible_steps
from neonym.models.model import Model
from neonym.types import Size


def draw(
    model: Model,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    negative_prompt: str = "",
    steps: int = 30,
    guidance: float | None = None,
    size: Size | None = None,
    sampler: str = "ddim",
    batch_size: int = 8,
) -> list[Image.Image]:
    """One picture for each prompt, from its seed. Size (width, height) and guidance are by default the model's own.

    `steps`: at most as many as the sampler can take.
    """
    width, height = size or (model.source.native_size, model.source.native_size)
    if width % 8 or height % 8:
        raise UserError(f"{width} x {height} is not a multiple of 8", "the size of the pictures")
    scale = model.source.guidance if guidance is None else guidance
    painter, pictures, steps = Painter(model), [], possible_steps(sampler, steps)
    jobs = [
        Job(prompt, seed, width, height, negative_prompt, steps, scale, sampler=sampler)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    for first in range(0, len(jobs), batch_size):
        pictures += painter.paint(jobs[first : first + batch_size])
    return pictures
