"""Generate images from prompts in one call."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from neonym.errors import UserError
from neonym.generation.pipeline import Pipeline
from neonym.generation.request.jobs import Job
from neonym.generation.samplers import default_sampler, possible_steps, sampler_name
from neonym.models.model import Model
from neonym.types import Size


def generate_images(
    model: Model,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    negative_prompt: str = "",
    steps: int = 30,
    guidance: float | None = None,
    embedded_guidance: float | None = None,
    size: Size | None = None,
    sampler: str | None = None,
    batch_size: int = 8,
) -> list[Image.Image]:
    """Return one image for each prompt, generated from its seed.

    `size` is (width, height) in pixels. Size, guidance scales and sampler are the model's own by default. `steps` is
    limited to what the sampler can take. Raises UserError for a sampler or a size that the model does not support.
    """
    width, height = size or (model.source.native_size, model.source.native_size)
    multiple, most = model.source.latents.multiple, model.source.facts.largest_side
    if width % multiple or height % multiple:
        raise UserError(f"{width} x {height} is not a multiple of {multiple}", "the size of the images")
    if most is not None and max(width, height) > most:
        what, fix = f"{width} x {height} is too large for {model.source.family.label}", f"Use at most {most} a side"
        raise UserError(what, "the size of the images", fix)
    scale = model.source.guidance if guidance is None else guidance
    sampler = sampler_name(sampler or default_sampler(model.source.family.process))
    pipeline, images, steps = Pipeline(model), [], possible_steps(sampler, steps)
    shared = {"steps": steps, "scale": scale, "embedded_guidance": embedded_guidance, "sampler": sampler}
    jobs = [
        Job(prompt, seed, width, height, negative_prompt, **shared) for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    for first in range(0, len(jobs), batch_size):
        images += pipeline.generate(jobs[first : first + batch_size])
    return images
