"""Generate images from jobs with one model: encode the texts, sample with guidance, and decode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from neonym.errors import UserError
from neonym.generation.conditioning import TextRules, chunks_needed, conditioning
from neonym.generation.graphs import PredictionGraphs
from neonym.generation.guidance import Branch, Guidance, GuidedModel, SkipLayers, concatenate_texts
from neonym.generation.request.jobs import Job, first_stage_size
from neonym.generation.samplers import make_scheduler, possible_steps
from neonym.generation.sampling import Levels, Start, sample_latents
from neonym.generation.source_images import image_tensor, keep_masked, mask_tensor, open_mask, open_source
from neonym.generation.start_noise import NoiseChange
from neonym.models.graphs.graphs import with_room
from neonym.models.model import Model
from neonym.models.room import room_for_vae
from neonym.types import Conditions, TextCond

if TYPE_CHECKING:
    from neonym.generation.lora import Networks

TextKey = tuple[str, int, tuple[float, ...]]  # prompt, chunks, multipliers of the LoRAs


@dataclass(frozen=True)
class PipelineRules:
    """The settings that are the same for all images of a run."""

    text: TextRules = field(default_factory=TextRules)
    zero_terminal_snr: bool = False
    guidance_rescale: float = 0.0
    skip_layer_scale: float | None = None  # of skip-layer guidance; None: there is none
    at_once: bool = False  # predict a whole batch together on a CPU too
    vae_batch_size: float = 1  # below 1: a fraction of the batch
    vae_tiling: bool = False
    half_vae: bool = True
    noise: tuple[NoiseChange, ...] = ()
    highres_scale: float | None = None  # size of the first of two stages, as a fraction of each side
    highres_steps: int = 28
    highres_strength: float | None = None
    highres_latents: bool = False  # enlarge the latents instead of the pixels
    progress: bool = False  # show a progress bar of the steps


class Pipeline:
    """A generator of images from batches of jobs of one shape, with a loaded model of any family."""

    def __init__(
        self, model: Model, rules: PipelineRules = PipelineRules(), networks: Networks | None = None,
        graphs: PredictionGraphs | None = None,
    ):  # fmt: skip
        self.model, self.rules, self.networks, self.graphs = model, rules, networks, graphs
        self.guided, self.vae = GuidedModel(model, rules.at_once, graphs), model.vae
        self.latent_spec = model.source.latents
        self.levels = Levels(self.latent_spec.patch, model.source.family.own_levels, model.source.family.mu)
        self.texts: dict[TextKey, TextCond] = {}
        half = rules.half_vae and not model.source.family.vae_overflows
        self.vae.to(model.device, model.dtype if half else torch.float32)
        if rules.vae_tiling:
            self.vae.tile()

    def generate(self, jobs: Sequence[Job]) -> list[Image.Image]:
        """Return one image for each job. Raises UserError for an image with numbers that are not finite."""
        return self.generate_stages(jobs)[-1]

    def generate_stages(self, jobs: Sequence[Job]) -> list[list[Image.Image]]:
        """Return the images of each stage; the last list holds the finished images.

        Jobs whose texts have different numbers of chunks are generated separately, so that none is padded for another.
        """
        if self.networks is not None:
            self.networks.set(jobs[0].multipliers)
        groups: dict[int, list[int]] = {}
        for i, job in enumerate(jobs):
            texts = [job.prompt, job.negative_prompt] if job.guided else [job.prompt]
            groups.setdefault(chunks_needed(self.model, texts, self.rules.text), []).append(i)
        images: dict[int, list[Image.Image]] = {}  # index of the job -> one image for each stage
        for chunks, members in groups.items():
            stages = self.generate_group([jobs[i] for i in members], chunks)
            images |= dict(zip(members, map(list, zip(*stages, strict=True)), strict=True))
        return [list(stage) for stage in zip(*(images[i] for i in range(len(jobs))), strict=True)]

    @torch.inference_mode()
    def generate_group(self, jobs: Sequence[Job], chunks: int) -> list[list[Image.Image]]:
        """Return the images of each stage for jobs whose texts have this number of `chunks`."""
        share = self.rules.highres_scale
        if share is None:
            return [self.decode(self.latents(jobs, self.source_latents(jobs), chunks), jobs)]
        small = [self.first_stage(job, share) for job in jobs]
        latents = self.latents(small, self.source_latents(small), chunks)
        images = self.decode(latents, small)
        large = [replace(job, seed=job.seed + 1) for job in jobs]
        size = jobs[0].width, jobs[0].height
        if self.rules.highres_latents:
            start = interpolate(latents, self.latent_shape(jobs[0])[1:], mode="bicubic")
        else:
            start = self.encode([image.resize(size, Image.Resampling.LANCZOS) for image in images])
        return [images, self.decode(self.latents(large, start, chunks), jobs)]

    def first_stage(self, job: Job, share: float) -> Job:
        """Return the job of the first of two stages, whose sides are `share` of those of the second."""
        width, height = first_stage_size((job.width, job.height), share, self.latent_spec.multiple)
        strength = job.strength if self.rules.highres_strength is None else self.rules.highres_strength
        steps = possible_steps(job.sampler, self.rules.highres_steps)
        return replace(job, width=width, height=height, steps=steps, strength=strength)

    # Latents, sampled from noise or from an image.

    def latents(self, jobs: Sequence[Job], source: Tensor | None, chunks: int) -> Tensor:
        """Return the latents [B,C,h,w] of jobs, sampled from pure noise or from the latents of source images."""
        first, device = jobs[0], self.model.device
        guidance = self.guidance(jobs, chunks)
        generators = [torch.Generator().manual_seed(job.seed) for job in jobs]
        shape = (1, *self.latent_shape(first))
        noise = [torch.randn(shape, generator=generator) for generator in generators]
        start = None
        if source is None:
            noise = [self.changed_noise(own, job.seed) for own, job in zip(noise, jobs, strict=True)]
        else:
            start = Start(source, first.strength, self.masks(jobs))
        return sample_latents(
            make_scheduler(self.model, first.sampler, self.rules.zero_terminal_snr),
            lambda x_t, t, done: self.guided.predict(guidance.at(done), x_t, t),
            torch.cat(noise).to(device), generators, first.steps, start, self.rules.progress,
            self.levels,
        )  # fmt: skip

    def latent_shape(self, job: Job) -> tuple[int, int, int]:
        """Return C, h and w of a job's latents."""
        return self.latent_spec.channels, job.height // self.latent_spec.pixels, job.width // self.latent_spec.pixels

    def changed_noise(self, noise: Tensor, seed: int) -> Tensor:
        """Return the initial noise [1,C,h,w] of the image with this seed, with the run's changes applied."""
        for change in self.rules.noise:
            noise = change.apply(noise, seed)
        return noise

    def masks(self, jobs: Sequence[Job]) -> Tensor | None:
        """Return the masks of jobs, [B,1,h,w], or None if they have none."""
        images = [open_mask(job.mask, (job.width, job.height)) for job in jobs if job.mask is not None]
        return mask_tensor(images, self.latent_spec.pixels).to(self.model.device) if images else None

    def guidance(self, jobs: Sequence[Job], chunks: int) -> Guidance:
        """Return the guidance of jobs: their texts, each padded to this number of `chunks`, and their scales."""
        first = jobs[0]
        self.texts = {key: text for key, text in self.texts.items() if key[0] == first.negative_prompt}
        prompt = self.branch([job.prompt for job in jobs], jobs, chunks)
        if not first.guided:
            return Guidance(prompt)
        negative = self.branch([job.negative_prompt for job in jobs], jobs, chunks, negative=True)
        scale = self.per_image([job.scale for job in jobs])
        found = Guidance(prompt, negative, scale, rescale=self.rules.guidance_rescale, skip=self.skip_layers(prompt))
        if first.negative_scale is None:
            return found
        away = self.per_image([job.negative_scale or 0.0 for job in jobs])
        return replace(found, empty=self.branch([""] * len(jobs), jobs, chunks, negative=True), negative_scale=away)

    def skip_layers(self, prompt: Branch) -> SkipLayers | None:
        """Return the skip-layer guidance of the run, or None without it."""
        scale, skipped = self.rules.skip_layer_scale, self.model.source.facts.skipped_blocks
        if not scale or not skipped:
            return None
        return SkipLayers(replace(prompt, conditions=replace(prompt.conditions, skipped_blocks=skipped)), scale)

    def per_image(self, numbers: Sequence[float]) -> Tensor:
        """Return one number per image as a tensor [B,1,1,1]."""
        return torch.tensor(numbers, dtype=torch.float32, device=self.model.device)[:, None, None, None]

    def branch(self, texts: Sequence[str], jobs: Sequence[Job], chunks: int, negative: bool = False) -> Branch:
        """Return one encoded text per job, with the other conditions of the jobs."""
        keys = [(text, chunks, jobs[0].multipliers) for text in texts]
        for key in keys:  # each text once, and alone, so that no number depends on its neighbours
            if key not in self.texts:
                self.texts[key] = conditioning(self.model, [key[0]], chunks, self.rules.text)
        text = concatenate_texts([self.texts[key] for key in keys])
        source, sizes, guidance = self.model.source, None, None
        if source.family.reads_sizes:
            rows = [size_condition(job, negative) for job in jobs]
            sizes = torch.tensor(rows, dtype=torch.float32, device=self.model.device)  # [B,6]
        if source.facts.embedded_guidance is not None:
            scales = [job.embedded_guidance or source.facts.embedded_guidance for job in jobs]
            guidance = torch.tensor(scales, dtype=torch.float32, device=self.model.device)  # [B]
        return Branch(text, Conditions(sizes, guidance))

    # The VAE: from source images to latents, from latents to images.

    def source_latents(self, jobs: Sequence[Job]) -> Tensor | None:
        """Return the latents [B,C,h,w] of the jobs' source images, or None if they start from noise."""
        images = [open_source(job.source, (job.width, job.height)) for job in jobs if job.source is not None]
        return self.encode(images) if images else None

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the means of the latents of images, [B,C,h,w]; the images are encoded one by one."""
        with self.room_for_vae() as room:
            moments = [room(partial(self.vae.encode, image_tensor(image))) for image in images]
        return self.vae.mean(torch.cat(moments).float())

    @contextmanager
    def room_for_vae(self) -> Iterator[Callable[[Callable[[], Tensor]], Tensor]]:
        """Yield a function that returns what a function of the VAE returns.

        If memory does not suffice, the VAE gets that of the graphs first, then that of the model.
        """
        with room_for_vae(self.model) as room:
            yield lambda compute: room(partial(with_room, self.graphs, compute))

    def decode(self, latents: Tensor, jobs: Sequence[Job]) -> list[Image.Image]:
        """Return the images of latents [B,C,h,w]; the part that a mask keeps is restored bit for bit.

        Raises UserError for an image with numbers that are not finite.
        """
        size, images = self.rules.vae_batch_size, []
        together = int(size) if size >= 1 else max(1, int(size * len(jobs)))
        with self.room_for_vae() as room:
            parts = [room(partial(self.vae.decode, part)) for part in latents.split(together)]  # [b,3,H,W] in -1..1
        for decoded in parts:
            if not decoded.isfinite().all():
                seeds = ", ".join(str(job.seed) for job in jobs)
                fix = "Lower --scale or the emphasis in the prompt; with --fp16, add --no_half_vae"
                raise UserError("an image has numbers that are not finite and would be black", f"seed {seeds}", fix)
            pixels = ((decoded + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            images += [Image.fromarray(own) for own in pixels.permute(0, 2, 3, 1).cpu().numpy()]
        return [keep_masked(image, job) for image, job in zip(images, jobs, strict=True)]


def size_condition(job: Job, negative: bool) -> list[int]:
    """Return the size conditioning of a job (Podell et al. 2023, section 2.2), in pixels.

    It consists of the original height and width, the crop from top and left, and the target height and width.
    """
    height = job.original_height or job.height
    width = job.original_width or job.width
    if negative:
        height, width = job.original_height_negative or height, job.original_width_negative or width
    return [height, width, job.crop_top, job.crop_left, job.height, job.width]
