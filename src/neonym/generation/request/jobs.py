"""Turn settings and prompt lines into jobs: one for each image, with everything that determines it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from neonym.config.generate import GenerateSettings
from neonym.data.images import inspect_image
from neonym.errors import ConfigError, Problem, counted
from neonym.generation.image_files import has_room
from neonym.generation.request.lines import read_prompt_line, take_seeds
from neonym.generation.request.prompt_sources import is_pipe, prompt_lines, prompts_in_images, readable_images
from neonym.generation.request.variants import (
    Parts,
    count_variants,
    enumerate_variants,
    is_enumerated,
    parse_variants,
    pick_text,
)
from neonym.generation.samplers import possible_steps
from neonym.seeds import dice
from neonym.text.emphasis import parse_emphasis
from neonym.types import Size

DEFAULT_STRENGTH = 0.8
USUAL_STEPS = 50  # of a model that is not distilled to need fewer
RANDOM_SEEDS = 1 << 32  # the number of possible seeds if none is given
LARGEST_SIDE = 16_384
COARSE = 32  # sd-scripts' grid, in pixels, for sizes that are derived from another size
MOST_VARIANTS = 10_000  # of a single line

OnError = Callable[[ConfigError], object]


@dataclass(frozen=True)
class NativeValues:
    """The native values of a model: a side in pixels, a guidance scale, steps, and which sides are possible."""

    side: int
    scale: float
    multiple: int = 1  # sides must be multiples of this
    steps: int = USUAL_STEPS
    most: int = LARGEST_SIDE


@dataclass(frozen=True)
class Job:
    """Everything that determines one image. Sizes are in pixels, and multiples of what the model's latents need."""

    prompt: str
    seed: int
    width: int
    height: int
    negative_prompt: str = ""
    steps: int = 50
    scale: float = 7.5
    negative_scale: float | None = None
    embedded_guidance: float | None = None  # scale that a distilled model reads as a number; None: its own
    strength: float = DEFAULT_STRENGTH  # the fraction of the steps that are taken, if the job starts from an image
    sampler: str = "ddim"
    source: str | None = None  # the image that it starts from
    mask: str | None = None
    multipliers: tuple[float, ...] = ()  # of the LoRAs
    original_width: int | None = None  # size conditioning; None: the image's own
    original_height: int | None = None
    original_width_negative: int | None = None
    original_height_negative: int | None = None
    crop_top: int = 0
    crop_left: int = 0
    clip_prompt: str | None = None  # recorded only
    file: str | None = None  # name within the output folder
    raw_prompt: str = ""  # the line that it comes from

    @property
    def guided(self) -> bool:
        """Whether there is guidance, so that the negative prompt has an effect."""
        return self.scale > 1

    @property
    def shape(self) -> tuple[Any, ...]:
        """The values that jobs must share to be generated in one batch."""
        return (
            self.width, self.height, self.steps, self.guided, self.negative_scale is None, self.strength, self.sampler,
            self.source is None, self.mask is None, self.multipliers,
        )  # fmt: skip


class JobPlan:
    """The jobs of a run, which can be iterated repeatedly and are the same each time.

    `problems` collects what is wrong with the settings and, during iteration, warnings about jobs.
    """

    def __init__(self, settings: GenerateSettings, native: NativeValues):
        self.settings, self.native = settings, native
        self.problems, self.warned = list[Problem](), set[str]()
        self.seed = random.SystemRandom().randrange(RANDOM_SEEDS) if settings.seed is None else settings.seed
        self.piped = self.piped_lines(settings.from_file)
        self.sources = readable_images(settings.image_path, "--image_path", self.problems)
        self.masks = readable_images(settings.mask_path, "--mask_path", self.problems)
        self.base = self.base_job()
        self.count = 0  # images so far

    def piped_lines(self, file: str | None) -> list[tuple[str, str]] | None:
        """Return the lines of a prompt file that can be read only once, or None for any other file."""
        if file is None or not is_pipe(file):
            return None
        try:
            return list(prompt_lines(Path(file)))
        except ConfigError as error:
            self.problems += error.problems
            return []

    def base_job(self) -> Job:
        """Return the job that the settings describe, of which lines change some values."""
        settings = self.settings
        values = {f.name: getattr(settings, f.name) for f in fields(Job) if f.name in type(settings).model_fields}
        values |= {
            "prompt": "", "seed": self.seed, "multipliers": settings.network_mul,
            "width": self.base_side(settings.W, "--W"), "height": self.base_side(settings.H, "--H"),
            "scale": self.native.scale if settings.scale is None else settings.scale,
            "steps": self.native.steps if settings.steps is None else settings.steps,
            "strength": DEFAULT_STRENGTH if settings.strength is None else settings.strength,
        }  # fmt: skip
        return Job(**values)

    def base_side(self, pixels: int | None, flag: str) -> int:
        """Return the side in pixels that a flag sets, by default the model's own. Errors are added to `problems`."""
        try:
            return self.side(pixels or self.native.side, flag)
        except ConfigError as error:
            self.problems += error.problems
            return self.native.multiple

    def side(self, pixels: int, where: str) -> int:
        """Return a side rounded to one that the model supports, with a warning. Raises ConfigError beyond limits."""
        least, most = self.native.multiple, self.native.most
        if not least <= pixels <= most:
            what, fix = f"a side of {pixels} pixels is not possible", f"Use {least} to {most}"
            raise ConfigError([Problem("error", what, where, fix)])
        rounded = round(pixels / least) * least
        if rounded != pixels:
            self.warn(f"{pixels} is not a multiple of {least}: using {rounded} instead, here and elsewhere", where)
        return rounded

    # From settings to lines, and from lines to jobs.

    def jobs(self, on_error: OnError | None = None) -> Iterator[Job]:
        """Yield the job of every image, pass by pass. Errors in a line go to `on_error`, or are raised without it."""
        self.count = 0
        for turn in range(self.settings.n_iter):
            try:
                yield from self.jobs_of_pass(turn, on_error)
            except ConfigError as error:  # the lines themselves cannot be read
                if on_error is None:
                    raise
                on_error(error)

    def jobs_of_pass(self, turn: int, on_error: OnError | None) -> Iterator[Job]:
        """Yield the job of every image of one pass over the prompts."""
        lines: Iterable[tuple[str, str]] = self.lines()
        if self.settings.shuffle_prompts:
            lines = list(lines)
            dice(self.seed, "shuffle", turn).shuffle(lines)
        for where, line in lines:
            try:
                yield from self.jobs_of_line(line, where, turn)
            except ConfigError as error:
                if on_error is None:
                    raise
                on_error(error)

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield the location and the text of each prompt line. A file is read lazily. Raises ConfigError."""
        settings = self.settings
        yield from ((f'--prompt "{text}"', text) for text in settings.prompt)
        if settings.from_file is not None:
            yield from prompt_lines(Path(settings.from_file)) if self.piped is None else self.piped
        if not (settings.prompt or settings.from_file or settings.interactive):
            yield from prompts_in_images(self.sources)

    def jobs_of_line(self, line: str, where: str, turn: int = 0) -> Iterator[Job]:
        """Yield the jobs of one line. Raises ConfigError if the line is wrong."""
        problems: list[Problem] = []
        text, seeds = take_seeds(line, where, problems)
        for i, variant in enumerate(self.variants(text, where, problems)):
            seed = self.seed_of(i, seeds, turn)
            read = read_prompt_line(pick_text(variant, dice(seed, "variants")), where, problems)
            if any(problem.severity == "error" for problem in problems):
                raise ConfigError(problems)
            for problem in problems:
                self.warn(problem.what, where)
            yield self.job(read.prompt, {**read.values, "seed": seed, "raw_prompt": line}, where)

    def variants(self, text: str, where: str, problems: list[Problem]) -> Iterable[Parts]:
        """Return one dynamic prompt for each image of a line. Raises ConfigError, including earlier `problems`."""
        try:
            parts = parse_variants(text)
            if (count := count_variants(parts)) > MOST_VARIANTS:
                raise ValueError(f"{count} variants are too many: at most {MOST_VARIANTS} are allowed")
        except ValueError as error:
            raise ConfigError([*problems, Problem("error", str(error), where)]) from error
        return (
            enumerate_variants(parts)
            if is_enumerated(parts)
            else (parts for _ in range(self.settings.images_per_prompt))
        )

    def seed_of(self, index: int, seeds: tuple[int, ...], turn: int) -> int:
        """Return the seed of image `index` of a line: one of `seeds`, counted up after the last, or the run's next."""
        if seeds:
            if turn:
                self.warn("with --d, every pass of --n_iter generates the same images", "--n_iter")
            return seeds[index] if index < len(seeds) else seeds[-1] + index - len(seeds) + 1
        return self.seed + (turn if self.settings.iter_same_seed else self.count)

    def job(self, prompt: str, values: dict[str, Any], where: str) -> Job:
        """Return the next job, with the values that its line sets. Raises ConfigError if it cannot be generated."""
        source = self.sources[self.count % len(self.sources)] if self.sources else None
        mask = self.masks[self.count % len(self.masks)] if self.masks else None
        job = replace(self.base, prompt=prompt, source=source, mask=mask, **values)
        job = self.with_possible_steps(self.with_size(job, values, where), where)
        if self.settings.network_merge and "multipliers" in values:
            job = replace(job, multipliers=self.settings.network_mul)
        self.warn_of_unused_options(job, values, where)
        if problems := list(job_problems(job, self.settings, where)):
            raise ConfigError(problems)
        self.count += 1
        return job

    def with_size(self, job: Job, values: dict[str, Any], where: str) -> Job:
        """Return the job with a size that the model supports, by default that of its source image."""
        settings, requested = self.settings, {"width", "height"} & set(values)
        is_sized = (settings.W and settings.H) or len(requested) == 2 or settings.highres_fix_scale is not None
        if job.source is not None and not is_sized:
            if requested:
                self.warn("--w and --h have no effect with --image_path, unless both are given", where)
            job = self.as_large_as(job.source, job, where)
        job = replace(job, width=self.side(job.width, where), height=self.side(job.height, where))
        self.warn_of_first_stage(job, where)
        return job

    def as_large_as(self, source: str, job: Job, where: str) -> Job:
        """Return the job at the size of its source image, rounded down as sd-scripts does, with a warning."""
        size, grid = inspect_image(Path(source)).size, coarse_grid(self.native.multiple)
        width, height = (max(grid, side // grid * grid) for side in size)
        if (width, height) != size:
            what = f"an image of {size[0]} x {size[1]} is scaled to {width} x {height}, multiples of {grid}"
            self.warn(what, where)
        return replace(job, width=width, height=height)

    def with_possible_steps(self, job: Job, where: str) -> Job:
        """Return the job with its steps limited to what its sampler can take, with a warning."""
        steps = possible_steps(job.sampler, job.steps)
        if steps != job.steps:
            self.warn(f"{job.steps} steps are not possible with {job.sampler}: using {steps} instead", where)
        return replace(job, steps=steps)

    # Warnings, each of which is given once.

    def warn_of_first_stage(self, job: Job, where: str) -> None:
        """Warn if the first of two stages does not have exactly the requested size."""
        if (share := self.settings.highres_fix_scale) is not None:
            width, height = first_stage_size((job.width, job.height), share, self.native.multiple)
            if (width, height) != (job.width * share, job.height * share):
                grid = coarse_grid(self.native.multiple)
                self.warn(f"the first of two stages has {width} x {height} pixels, multiples of {grid}", where)

    def warn_of_unused_options(self, job: Job, values: dict[str, Any], where: str) -> None:
        """Warn about options in a line that have no effect."""
        if "strength" in values and job.source is None and self.settings.highres_fix_scale is None:
            self.warn("--t has no effect without --image_path or --highres_fix_scale", where)
        if self.settings.network_merge and "multipliers" in values:
            self.warn("--am has no effect with --network_merge", where)
        if not job.guided and (job.negative_prompt or job.negative_scale is not None):
            self.warn(f"with a guidance scale of {job.scale:g}, the negative prompt has no effect", where)
        if not job.guided and self.settings.skip_layer_guidance_scale:
            self.warn(f"with a guidance scale of {job.scale:g}, --skip_layer_guidance_scale has no effect", where)

    def warn(self, what: str, where: str) -> None:
        """Add a warning once, with the first location to which it applies."""
        if what not in self.warned:
            self.warned.add(what)
            self.problems.append(Problem("warning", what, where))


def job_problems(job: Job, settings: GenerateSettings, where: str) -> Iterator[Problem]:
    """Yield what keeps a job from being generated."""
    for text in (job.prompt, job.negative_prompt):
        try:
            parse_emphasis(text)
        except ValueError as error:
            yield Problem("error", str(error), where, "Write a backslash before a literal bracket")
    if job.file and not has_room(Path(job.file).suffix, job.prompt, job.negative_prompt, job.raw_prompt):
        yield Problem("error", "the prompt is too long to be stored in a JPEG file", where, "Name a .png or .webp file")
    if len(job.multipliers) > len(settings.network_weights) and job.multipliers != settings.network_mul:
        what = f"{counted(len(job.multipliers), 'multiplier')} for {counted(len(settings.network_weights), 'LoRA')}"
        yield Problem("error", what, where, "Add files to --network_weights, or use fewer multipliers")
    stages = [(job.steps, job.strength)] if job.source or settings.highres_fix_scale else []
    if settings.highres_fix_scale is not None and job.source:
        first = job.strength if settings.highres_fix_strength is None else settings.highres_fix_strength
        stages.append((settings.highres_fix_steps, first))
    for steps, strength in stages:
        if int(steps * strength) < 1:
            what = f"a strength of {strength} leaves none of the {steps} steps"
            yield Problem("error", what, where, "Raise the strength or the steps")


def batches(jobs: Iterable[Job], size: int) -> Iterator[list[Job]]:
    """Yield batches of consecutive jobs of one shape, at most `size` in each."""
    waiting = list[Job]()
    for job in jobs:
        if waiting and (len(waiting) == size or waiting[0].shape != job.shape):
            yield waiting
            waiting = []
        waiting.append(job)
    if waiting:
        yield waiting


def coarse_grid(multiple: int) -> int:
    """Return what derived sides are multiples of, in pixels: a multiple of sd-scripts' 32 that the model supports."""
    return math.lcm(COARSE, multiple)


def first_stage_size(size: Size, share: float, multiple: int) -> Size:
    """Return the size in pixels of the first of two stages, rounded down to the coarse grid."""
    grid = coarse_grid(multiple)
    width, height = (max(grid, int(side * share) // grid * grid) for side in size)
    return width, height
