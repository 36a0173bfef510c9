"""Jobs to pictures: diffusers' pipelines and samplers, our text with the learned rows in it, our guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from neonym.data.colour import on_background
from neonym.data.images import readable, upright
from neonym.errors import UserError
from neonym.generation.conditioning import TextRules, conditioning, parts_needed
from neonym.generation.guidance import Branch, Guidance, GuidedUNet, joined_text
from neonym.generation.request.jobs import Job, first_side
from neonym.generation.samplers import make_pipeline, possible_steps
from neonym.models.process.noise import NoiseRules
from neonym.seeds import dice
from neonym.types import Size, TextCond

if TYPE_CHECKING:
    from neonym.generation.lora import Networks


GROUND = (255, 255, 255)


@dataclass(frozen=True)
class PaintRules:
    """What is the same for all pictures of a run."""

    text: TextRules = field(default_factory=TextRules)
    zero_terminal_snr: bool = False
    guidance_rescale: float = 0.0
    at_once: bool = False  # a CPU predicts for a whole batch together
    vae_batch_size: float = 1
    vae_tiling: bool = False
    half_vae: bool = True
    noise_offset: tuple[float, tuple[float, float]] | None = None  # share of pictures, range of the strength
    pyramid_noise: tuple[float, tuple[float, float]] | None = None  # share of pictures, range of the discount
    highres_scale: float | None = None
    highres_steps: int = 28
    highres_strength: float | None = None
    highres_latents: bool = False
    progress: bool = False  # a bar of the steps


class Painter:
    """Draws batches of jobs of one shape with a loaded model."""

    def __init__(self, model: Any, rules: PaintRules = PaintRules(), networks: Networks | None = None):
        self.model, self.rules, self.networks = model, rules, networks
        self.unet = GuidedUNet(model, rules.at_once)
        self.texts: dict[tuple[Any, ...], TextCond] = {}  # (prompt, parts, LoRAs) -> what the U-Net reads
        self.pipelines: dict[tuple[str, str], Any] = {}  # (kind, sampler) -> diffusers' pipeline
        overflows = model.source.family.vae_overflows  # in fp16
        model.vae.to(model.device, model.dtype if rules.half_vae and not overflows else torch.float32)
        if rules.vae_tiling:
            model.vae.tile()

    def paint(self, jobs: Sequence[Job]) -> list[Image.Image]:
        """One picture of each job."""
        return self.paint_both(jobs)[-1]

    def paint_both(self, jobs: Sequence[Job]) -> list[list[Image.Image]]:
        """The pictures; before them the small ones of the first stage, if there are two.

        Jobs whose texts have another number of parts are drawn apart, so that no text is filled up for a neighbour's sake.
        """
        if self.networks is not None:
            self.networks.set(jobs[0].multipliers)
        groups: dict[int, list[int]] = {}
        for i, job in enumerate(jobs):
            texts = [job.prompt, job.negative_prompt] if job.guided else [job.prompt]
            groups.setdefault(parts_needed(self.model, texts, self.rules.text), []).append(i)
        drawn: dict[int, list[Image.Image]] = {}
        for parts, members in groups.items():
            stages = self.paint_group([jobs[i] for i in members], parts)
            drawn |= dict(zip(members, map(list, zip(*stages, strict=True)), strict=True))
        return [list(stage) for stage in zip(*(drawn[i] for i in range(len(jobs))), strict=True)]

    @torch.inference_mode()
    def paint_group(self, jobs: Sequence[Job], parts: int) -> list[list[Image.Image]]:
        """The same for jobs whose texts have `parts` parts."""
        if self.rules.highres_scale is None:
            return [self.finish(self.latents(jobs, self.begin(jobs), parts), jobs)]
        small = [self.small(job) for job in jobs]
        first = self.latents(small, self.begin(small), parts)
        pictures = self.finish(first, small)
        large = [replace(job, seed=job.seed + 1) for job in jobs]
        width, height = jobs[0].width, jobs[0].height
        if self.rules.highres_latents:
            start = interpolate(first, (height // 8, width // 8), mode="bicubic")
        else:
            start = self.encode([p.resize((width, height), Image.Resampling.LANCZOS) for p in pictures])
        return [pictures, self.finish(self.latents(large, start, parts), jobs)]

    def small(self, job: Job) -> Job:
        """The first of two stages: sides are multiples of 32."""
        assert self.rules.highres_scale is not None
        sides = (first_side(side, self.rules.highres_scale) for side in (job.width, job.height))
        strength = job.strength if self.rules.highres_strength is None else self.rules.highres_strength
        steps, (width, height) = possible_steps(job.sampler, self.rules.highres_steps), sides
        return replace(job, width=width, height=height, steps=steps, strength=strength)

    def begin(self, jobs: Sequence[Job]) -> Tensor | None:
        """Latents of the pictures that the jobs begin from. -> [B,C,h,w]"""
        if jobs[0].source is None:
            return None
        return self.encode([opened(job.source, (job.width, job.height)) for job in jobs])

    def latents(self, jobs: Sequence[Job], start: Tensor | None, parts: int) -> Tensor:
        """Step through the noise levels. -> [B,C,h,w]"""
        first = jobs[0]
        self.texts = {key: text for key, text in self.texts.items() if key[0] == first.negative_prompt}
        self.unet.guidance = self.guidance(jobs, parts)
        generators = [torch.Generator().manual_seed(job.seed) for job in jobs]
        told: dict[str, Any] = {
            "prompt_embeds": self.unet.guidance.prompt.text.sequence.float(), "generator": generators, "guidance_scale": 1.0,
            "num_inference_steps": first.steps, "output_type": "latent",
        }  # fmt: skip
        pooled = self.unet.guidance.prompt.text.pooled
        if pooled is not None:
            told["pooled_prompt_embeds"] = pooled.float()
        if start is None:
            told |= {"width": first.width, "height": first.height, "latents": self.noise(jobs, generators)}
            return self.pipeline("", first.sampler)(**told).images
        told |= {"image": start, "strength": first.strength}
        if first.mask is None:
            return self.pipeline("Img2Img", first.sampler)(**told).images
        masks = [opened_mask(job, (job.width, job.height)) for job in jobs]
        told |= {
            "mask_image": masks, "masked_image_latents": told["image"], "width": first.width, "height": first.height,
        }  # fmt: skip
        return self.pipeline("Inpaint", first.sampler)(**told).images

    def noise(self, jobs: Sequence[Job], generators: Sequence[torch.Generator]) -> Tensor:
        """What the pictures begin from, each from its own seed. -> [B,C,h,w]"""
        shape = (1, self.unet.config.in_channels, jobs[0].height // 8, jobs[0].width // 8)
        rows = [torch.randn(shape, generator=generator) for generator in generators]
        return torch.cat([self.altered(row, job) for row, job in zip(rows, jobs, strict=True)]).to(self.model.device)

    def altered(self, noise: Tensor, job: Job) -> Tensor:
        """With an offset or coarser noise, for the share of pictures that gets it."""
        for name, rule in (("offset", self.rules.noise_offset), ("pyramid", self.rules.pyramid_noise)):
            chance = dice(job.seed, name)
            if rule is None or chance.random() >= rule[0]:
                continue
            amount = chance.uniform(*rule[1])
            key = (job.seed, 0, 0)
            if name == "offset":
                own = torch.randn(
                    (1, noise.shape[1], 1, 1), generator=torch.Generator().manual_seed(chance.getrandbits(63))
                )
                noise = noise + amount * own
            else:
                coarse = NoiseRules(multires_noise_iterations=6, multires_noise_discount=amount)
                noise = noise + coarse.pyramid(noise, key)
                noise = noise / noise.std()
        return noise

    def guidance(self, jobs: Sequence[Job], parts: int) -> Guidance:
        """Every text is filled up to the same length."""
        first, device = jobs[0], self.model.device
        prompts, negatives = [job.prompt for job in jobs], [job.negative_prompt for job in jobs]
        if not first.guided:
            return Guidance(self.branch(prompts, jobs, parts))
        scale = torch.tensor([job.scale for job in jobs], device=device)[:, None, None, None]
        prompt, negative = self.branch(prompts, jobs, parts), self.branch(negatives, jobs, parts, negative=True)
        if first.negative_scale is None:
            return Guidance(prompt, negative, scale, rescale=self.rules.guidance_rescale)
        away = torch.tensor([job.negative_scale for job in jobs], device=device)[:, None, None, None]
        empty = self.branch([""] * len(jobs), jobs, parts, negative=True)
        return Guidance(prompt, negative, scale, empty, away, self.rules.guidance_rescale)

    def branch(self, texts: Sequence[str], jobs: Sequence[Job], parts: int, negative: bool = False) -> Branch:
        keys = [(said, parts, jobs[0].multipliers) for said in texts]
        for key in keys:  # one by one, so that no number depends on the neighbours; each text once
            if key not in self.texts:
                self.texts[key] = conditioning(self.model, [key[0]], parts, self.rules.text)
        text = joined_text([self.texts[key] for key in keys])
        if text.pooled is None:
            return Branch(text)
        rows = [told_sizes(job, negative) for job in jobs]
        return Branch(text, torch.tensor(rows, dtype=torch.float32, device=self.model.device))

    def pipeline(self, kind: str, sampler: str) -> Any:
        """diffusers' pipeline of the family, which sees our guided U-Net as a plain one."""
        if (kind, sampler) not in self.pipelines:
            pipeline = make_pipeline(self.model, sampler, kind, self.unet, self.rules.zero_terminal_snr)
            pipeline.set_progress_bar_config(disable=not self.rules.progress, leave=False)
            self.pipelines[kind, sampler] = pipeline
        return self.pipelines[kind, sampler]

    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        """The means of what the VAE says, scaled, one picture at a time. -> [B,C,h,w]"""
        vae, rows = self.model.vae, []
        for picture in pictures:
            pixels = torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
            rows.append(vae.mean(vae.encode(pixels)))
        return torch.cat(rows).float()

    def finish(self, latents: Tensor, jobs: Sequence[Job]) -> list[Image.Image]:
        """Decoded; what a mask keeps is put back as it was, bit for bit. Raises UserError for what is no picture."""
        vae, pictures = self.model.vae, []
        size = self.rules.vae_batch_size
        together = int(size) if size >= 1 else max(1, int(size * len(jobs)))
        for part in latents.split(together):
            decoded = vae.decode(part)
            if not decoded.isfinite().all():
                seeds = ", ".join(str(job.seed) for job in jobs)
                fix = "Lower --scale or the weights in the prompt; with --fp16, add --no_half_vae"
                raise UserError("a picture has numbers that are not finite: it would be black", f"seed {seeds}", fix)
            pixels = ((decoded + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            pictures += [Image.fromarray(p) for p in pixels.permute(0, 2, 3, 1).cpu().numpy()]
        return [masked(picture, job) for picture, job in zip(pictures, jobs, strict=True)]


def told_sizes(job: Job, negative: bool) -> list[int]:
    """SDXL's size conditioning: original height and width, crop from top and left, target height and width."""
    height = job.original_height or job.height
    width = job.original_width or job.width
    if negative:
        height, width = job.original_height_negative or height, job.original_width_negative or width
    return [height, width, job.crop_top, job.crop_left, job.height, job.width]


def opened(
    file: str | None, size: Size, filtered: Image.Resampling = Image.Resampling.LANCZOS, managed: bool = True
) -> Image.Image:
    """A picture the right way up, scaled to `size`, transparent parts white, in sRGB if `managed`. Raises DataError."""
    assert file is not None
    with readable(Path(file)) as picture:
        return on_background(upright(picture), GROUND, managed).resize(size, filtered)


def opened_mask(job: Job, size: Size) -> Image.Image:
    """Scaled without ringing: what is black away from an edge stays black. Raises DataError."""
    return opened(job.mask, size, Image.Resampling.BILINEAR, managed=False).convert("L")


def masked(picture: Image.Image, job: Job) -> Image.Image:
    """White parts of the mask from `picture`, black ones from the picture that it began from."""
    if job.mask is None or job.source is None:
        return picture
    return Image.composite(picture, opened(job.source, picture.size), opened_mask(job, picture.size))
