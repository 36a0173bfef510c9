"""From settings and prompt lines to jobs: one for each picture, with everything that decides it. Nothing is drawn here."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from neonym.config.generate import GenerateSettings
from neonym.data.images import find_images, inspect
from neonym.errors import ConfigError, DataError, Problem
from neonym.generation.image_files import fits, texts_in
from neonym.generation.request.lines import read_line, take_seeds
from neonym.generation.request.variants import draw_text, enumerates, every, how_many, parse_variants
from neonym.generation.samplers import possible_steps
from neonym.seeds import dice
from neonym.text.emphasis import parse_emphasis

DEFAULT_STRENGTH = 0.8
CHANCE_SEEDS = 1 << 32  # how many seeds there are by chance
LARGEST_SIDE = 16_384
MOST_VARIANTS = 10_000  # of one line


@dataclass(frozen=True)
class Job:
    """One picture. Sizes in pixels, multiples of 8."""

    prompt: str
    seed: int
    width: int
    height: int
    negative_prompt: str = ""
    steps: int = 50
    scale: float = 7.5
    negative_scale: float | None = None
    strength: float = DEFAULT_STRENGTH  # of what is drawn anew, if it begins from a picture
    sampler: str = "ddim"
    source: str | None = None  # picture to begin from
    mask: str | None = None
    multipliers: tuple[float, ...] = ()  # of the LoRAs
    original_width: int | None = None  # what SDXL is told; None: the picture's own
    original_height: int | None = None
    original_width_negative: int | None = None
    original_height_negative: int | None = None
    crop_top: int = 0
    crop_left: int = 0
    clip_prompt: str | None = None  # recorded only
    file: str | None = None  # name within the output folder
    raw_prompt: str = ""  # the line that it came from

    @property
    def guided(self) -> bool:
        return self.scale > 1

    @property
    def shape(self) -> tuple[Any, ...]:
        """Jobs of one shape can be drawn together."""
        return (
            self.width, self.height, self.steps, self.guided, self.negative_scale is None, self.strength, self.sampler,
            self.source is None, self.mask is None, self.multipliers,
        )  # fmt: skip


class Plan:
    """The jobs of a run. It can be gone through as often as wanted and is the same each time."""

    def __init__(self, settings: GenerateSettings, side: int, scale: float):
        """`side` and `scale`: the model's own size and guidance. What is wrong goes to `problems`."""
        self.settings, self.problems, self.told = settings, list[Problem](), set[str]()
        self.seed = random.SystemRandom().randrange(CHANCE_SEEDS) if settings.seed is None else settings.seed
        self.piped = None  # lines of what can be read once only
        if (
            settings.from_file is not None
            and Path(settings.from_file).exists()
            and not Path(settings.from_file).is_file()
        ):
            self.piped = self.read_once(Path(settings.from_file))
        self.sources = pictures_of(settings.image_path, "--image_path", self.problems)
        self.masks = pictures_of(settings.mask_path, "--mask_path", self.problems)
        width, height = self.own_side(settings.W or side, "--W"), self.own_side(settings.H or side, "--H")
        values = {f.name: getattr(settings, f.name) for f in fields(Job) if f.name in type(settings).model_fields}
        own = {"width": width, "height": height, "scale": settings.scale if settings.scale is not None else scale}
        own["strength"] = DEFAULT_STRENGTH if settings.strength is None else settings.strength
        self.base = Job(**{**values, "prompt": "", "seed": self.seed, **own, "multipliers": settings.network_mul})
        self.count = 0  # pictures so far

    def read_once(self, pipe: Path) -> list[tuple[str, str]]:
        try:
            return list(prompt_lines(pipe))
        except ConfigError as error:
            self.problems += error.problems
            return []

    def own_side(self, pixels: int, flag: str) -> int:
        """As `side`, but what is wrong goes to the problems."""
        try:
            return self.side(pixels, flag)
        except ConfigError as error:
            self.problems += error.problems
            return 8

    def side(self, pixels: int, where: str) -> int:
        """Rounded to a multiple of 8, which is said. Raises ConfigError for a size that is no picture's."""
        if not 8 <= pixels <= LARGEST_SIDE:
            raise ConfigError(
                [Problem("error", f"a side of {pixels} pixels is not possible", where, f"8 to {LARGEST_SIDE} are")]
            )
        rounded = round(pixels / 8) * 8
        if rounded != pixels:
            self.warn(f"{pixels} is no multiple of 8: {rounded} is used, here and wherever it stands", where)
        return rounded

    def jobs(self, complain: Callable[[ConfigError], object] | None = None) -> Iterator[Job]:
        """Every picture of every prompt of every pass. A line that is wrong goes to `complain`, or raises ConfigError."""
        self.count = 0
        for turn in range(self.settings.n_iter):
            try:
                yield from self.jobs_of_pass(turn, complain)
            except ConfigError as error:  # of the lines as such
                if complain is None:
                    raise
                complain(error)

    def jobs_of_pass(self, turn: int, complain: Callable[[ConfigError], object] | None) -> Iterator[Job]:
        """The same for one pass."""
        lines: Iterable[tuple[str, str]] = self.lines()
        if self.settings.shuffle_prompts:
            lines = list(lines)
            dice(self.seed, "shuffle", turn).shuffle(lines)
        for where, line in lines:
            try:
                yield from self.jobs_of(line, where, turn)
            except ConfigError as error:
                if complain is None:
                    raise
                complain(error)

    def lines(self) -> Iterator[tuple[str, str]]:
        """(place, prompt line). A file is read as it goes. Raises ConfigError."""
        yield from ((f'--prompt "{text}"', text) for text in self.settings.prompt)
        if self.settings.from_file is not None:
            yield from prompt_lines(Path(self.settings.from_file)) if self.piped is None else self.piped
        if not (self.settings.prompt or self.settings.from_file or self.settings.interactive):
            yield from carried_by(self.sources)

    def jobs_of(self, line: str, where: str, turn: int = 0) -> Iterator[Job]:
        """The pictures of one line. Raises ConfigError."""
        problems: list[Problem] = []
        text, seeds = take_seeds(line, where, problems)
        try:
            parts = parse_variants(text)
            if (count := how_many(parts)) > MOST_VARIANTS:
                raise ValueError(f"{count} variants are too many: at most {MOST_VARIANTS}")
        except ValueError as error:
            raise ConfigError([*problems, Problem("error", str(error), where)]) from error
        variants = every(parts) if enumerates(parts) else (parts for _ in range(self.settings.images_per_prompt))
        for i, variant in enumerate(variants):
            seed = self.seed_of(i, seeds, turn)
            read = read_line(draw_text(variant, dice(seed, "variants")), where, problems)
            if any(problem.severity == "error" for problem in problems):
                raise ConfigError(problems)
            for problem in problems:
                self.warn(problem.what, where)
            yield self.job(read.prompt, {**read.values, "seed": seed, "raw_prompt": line}, where)

    def seed_of(self, index: int, seeds: tuple[int, ...], turn: int) -> int:
        """The line's own seeds, then those that follow its last; else the run's, counted up."""
        if seeds:
            if turn:
                self.warn("with --d, every pass of --n_iter draws the same pictures", "--n_iter")
            return seeds[index] if index < len(seeds) else seeds[-1] + index - len(seeds) + 1
        return self.seed + (turn if self.settings.iter_same_seed else self.count)

    def job(self, prompt: str, values: dict[str, Any], where: str) -> Job:
        """Raises ConfigError."""
        source = self.sources[self.count % len(self.sources)] if self.sources else None
        mask = self.masks[self.count % len(self.masks)] if self.masks else None
        job = replace(self.base, prompt=prompt, source=source, mask=mask, **values)
        if source is not None and self.settings.highres_fix_scale is None:
            width, height = (self.settings.W, self.settings.H)
            if not (width and height) and not {"width", "height"} <= set(values):
                if {"width", "height"} & set(values):
                    self.warn("--w and --h have no effect with --image_path, unless both are given", where)
                job = self.as_large_as(source, job, where)
        job = replace(job, width=self.side(job.width, where), height=self.side(job.height, where))
        job = self.with_possible_steps(job, where)
        self.tell_first_stage(job, where)
        if "strength" in values and source is None and self.settings.highres_fix_scale is None:
            self.warn("--t has no effect without --image_path or --highres_fix_scale", where)
        if self.settings.network_merge and "multipliers" in values:
            self.warn("--am has no effect: the LoRAs are merged", where)
            job = replace(job, multipliers=self.settings.network_mul)
        if not job.guided and (job.negative_prompt or job.negative_scale is not None):
            self.warn(f"a guidance scale of {job.scale:g} is none: the negative prompt has no effect", where)
        if problems := list(job_problems(job, self.settings, where)):
            raise ConfigError(problems)
        self.count += 1
        return job

    def with_possible_steps(self, job: Job, where: str) -> Job:
        """As many as the sampler can take; others are told."""
        steps = possible_steps(job.sampler, job.steps)
        if steps != job.steps:
            self.warn(f"{job.steps} steps are not possible with {job.sampler}: {steps} are taken", where)
        return replace(job, steps=steps)

    def as_large_as(self, source: str, job: Job, where: str) -> Job:
        """The job at the size of the picture that it begins from, down to multiples of 32 as sd-scripts does it; told."""
        size = inspect(Path(source)).size
        width, height = (max(32, side // 32 * 32) for side in size)
        if (width, height) != size:
            self.warn(f"a picture of {size[0]} x {size[1]} is drawn at {width} x {height}, multiples of 32", where)
        return replace(job, width=width, height=height)

    def tell_first_stage(self, job: Job, where: str) -> None:
        """Where the first of two stages has not quite the size that it should have."""
        if (share := self.settings.highres_fix_scale) is not None:
            width, height = (first_side(side, share) for side in (job.width, job.height))
            if (width, height) != (job.width * share, job.height * share):
                self.warn(f"the first of two stages is drawn at {width} x {height}, multiples of 32", where)

    def warn(self, what: str, where: str) -> None:
        """Once, at the first place where it is so."""
        if what not in self.told:
            self.told.add(what)
            self.problems.append(Problem("warning", what, where))


def job_problems(job: Job, settings: GenerateSettings, where: str) -> Iterator[Problem]:
    """What cannot be drawn."""
    for text in (job.prompt, job.negative_prompt):
        try:
            parse_emphasis(text)
        except ValueError as error:
            yield Problem("error", str(error), where, "Write a backslash before a plain bracket")
    if job.file and not fits(Path(job.file).suffix, job.prompt, job.negative_prompt, job.raw_prompt):
        yield Problem("error", "a JPEG file has no room for so long a prompt", where, "Name a .png or .webp file")
    if len(job.multipliers) > len(settings.network_weights) and job.multipliers != settings.network_mul:
        what = f"{len(job.multipliers)} multipliers for {len(settings.network_weights)} LoRAs"
        yield Problem("error", what, where, "Give --network_weights, or leave some out")
    stages = [(job.steps, job.strength)] if job.source or settings.highres_fix_scale else []
    if settings.highres_fix_scale is not None and job.source:
        first = job.strength if settings.highres_fix_strength is None else settings.highres_fix_strength
        stages.append((settings.highres_fix_steps, first))
    for steps, strength in stages:
        if int(steps * strength) < 1:
            what = f"strength {strength} of {steps} steps leaves no step to draw"
            yield Problem("error", what, where, "Raise the strength or the steps")


def batches(jobs: Iterable[Job], size: int) -> Iterator[list[Job]]:
    """Neighbours of one shape together, at most `size` of them."""
    waiting = list[Job]()
    for job in jobs:
        if waiting and (len(waiting) == size or waiting[0].shape != job.shape):
            yield waiting
            waiting = []
        waiting.append(job)
    if waiting:
        yield waiting


def prompt_lines(file: Path) -> Iterator[tuple[str, str]]:
    """One prompt a line; blank lines and lines that begin with # are passed over. Raises ConfigError."""
    try:
        with file.open(encoding="utf-8-sig") as opened:
            for number, line in enumerate(opened, 1):
                if (text := line.strip()) and not text.startswith("#"):
                    yield f"{file} line {number}", text
    except (OSError, UnicodeDecodeError) as error:
        fix = "Check --from_file; it should be UTF-8 text with a prompt on each line"
        raise ConfigError([Problem("error", f"cannot be read ({error})", str(file), fix)]) from error


def pictures_of(name: str | None, flag: str, problems: list[Problem]) -> list[str]:
    """A picture, or the pictures of a folder in the order of their names: those that are whole."""
    if name is None:
        return []
    path = Path(name)
    try:
        files = find_images(path) if path.is_dir() else [path]
    except OSError as error:
        problems.append(Problem("error", f"cannot be read ({error.strerror})", f"{flag} {name}"))
        return []
    if not files:
        problems.append(Problem("error", "there are no pictures in it", f"{flag} {name}"))
    whole = []
    for file in files:
        try:
            inspect(file)
            whole.append(str(file))
        except DataError as error:
            problems.append(replace(error.problem, where=f"{flag} {file}"))
    return whole


def first_side(side: int, share: float) -> int:
    """Of the first of two stages, in pixels: down to a multiple of 32."""
    return max(32, int(side * share) // 32 * 32)


def carried_by(sources: Iterable[str]) -> list[tuple[str, str]]:
    """(picture, the prompt that it carries). Raises ConfigError with those that carry none."""
    found, problems = [], list[Problem]()
    for source in sources:
        try:
            found.append((source, prompt_in(source)))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return found


def prompt_in(source: str) -> str:
    """The prompt that a picture carries, with its negative prompt, as a line. Raises ConfigError if it has none."""
    said = texts_in(source)
    if "class_type" in said.get("prompt", ""):  # ComfyUI's: a graph
        del said["prompt"]
    prompt, negative = said.get("prompt", ""), said.get("negative-prompt", "")
    if "prompt" not in said and "parameters" in said:
        prompt, negative = read_parameters(said["parameters"])
    elif "prompt" not in said:
        raise ConfigError([Problem("error", "it carries no prompt", source, "Give --prompt or --from_file")])
    return f"{escaped(prompt)} --n {escaped(negative)}" if negative else escaped(prompt)


def read_parameters(block: str) -> tuple[str, str]:
    """AUTOMATIC1111's text of a picture -> prompt, negative prompt"""
    lines = block.strip().split("\n")
    if lines[-1].startswith("Steps: "):
        del lines[-1]
    prompt, *negative = re.split(r"^\s*Negative prompt:", "\n".join(lines), maxsplit=1, flags=re.MULTILINE)
    return prompt.strip(), "".join(negative).strip()


def escaped(prompt: str) -> str:
    """A drawn prompt, of which nothing is to be drawn again."""
    return re.sub(r"[{}|]", r"\\\g<0>", prompt)
