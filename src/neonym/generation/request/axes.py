"""Plan sheets with axes, which show one prompt for each pair of values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from neonym.config.generate import GenerateSettings
from neonym.errors import ConfigError, Problem, UserError
from neonym.generation.embeddings import read_given, word_and_file
from neonym.generation.request.jobs import Job, JobPlan, job_problems
from neonym.generation.request.lines import parse_float, parse_scale
from neonym.generation.request.prompts import parse_seed, parse_steps
from neonym.generation.request.variants import count_variants, is_enumerated, parse_variants
from neonym.generation.samplers import sampler_name
from neonym.text.words import clean, whole_word
from neonym.types import Embedding

Words = dict[str, tuple[Path, Embedding]]  # word -> its file and what the file holds


def parse_word_weight(text: str) -> float:
    """Return the weight of a word in a prompt, from -100 to 100. Raises ValueError for anything else."""
    number = parse_float(text)
    if not math.isfinite(number) or abs(number) > 100:
        raise ValueError("a weight from -100 to 100 is expected")
    return number


READERS: dict[str, Callable[[str], Any]] = {  # kind of axis -> parser, in the order of application
    "prompt": str, "scale": parse_scale, "steps": parse_steps, "seed": parse_seed, "sampler": sampler_name,
    "checkpoint": str, "strength": parse_word_weight,
}  # fmt: skip
OTHER_NAMES = {"guidance": "scale", "prompts": "prompt", "checkpoints": "checkpoint"}
BARS = re.compile(r"\|(?![^{}]*\})")  # bars between prompts, not those within braces


@dataclass(frozen=True)
class Axis:
    """One axis of a sheet.

    Its kind is "checkpoint" (embedding files for one word), "strength" (the weight of the words in the prompt),
    "prompt", or the name of a setting.
    """

    kind: str
    values: tuple[Any, ...]
    where: str = ""

    def label(self, value: Any) -> str:
        """Return the label of the row or column for a value."""
        shown = Path(value).stem if self.kind == "checkpoint" else value
        return f"{self.kind} {shown}" if self.kind != "prompt" else str(shown)


@dataclass(frozen=True)
class AxesSheet:
    """The jobs of a sheet, one for each pair of values, row by row, and the words that the axes add."""

    x: Axis
    y: Axis
    jobs: tuple[Job, ...]
    words: Words


def plan_sheet(settings: GenerateSettings, plan: JobPlan, words: Words) -> AxesSheet | None:
    """Return the sheet that --x and --y describe, or None without them. Raises ConfigError."""
    axes = axes_of(settings)
    if not axes:
        return None
    x, y = axes[0], axes[1] if len(axes) > 1 else Axis("none", (None,))
    names = names_of([v for axis in axes if axis.kind == "checkpoint" for v in axis.values], words)
    added = {names[value]: (word_and_file(value)[1], read_given(value)) for value in names}
    jobs, problems = [], list[Problem]()
    for b, a in product(y.values, x.values):
        pairs = sorted([(x, a), (y, b)], key=lambda pair: [*READERS, "none"].index(pair[0].kind))
        job = first_job(plan, pairs)
        for axis, value in pairs:
            job = apply_value(job, axis, value, {**words, **added}, names)
        job = plan.with_possible_steps(job, axes[0].where)
        problems += [p for p in job_problems(job, settings, axes[0].where) if p not in problems]
        jobs.append(job)
    if problems:
        raise ConfigError(problems)
    return AxesSheet(x, y, tuple(jobs), added)


def names_of(checkpoints: Sequence[str], words: Words) -> dict[str, str]:
    """Return a unique word for each file: the name of the file if no other word has it."""
    names: dict[str, str] = {}
    for i, given in enumerate(dict.fromkeys(checkpoints)):
        stem = word_and_file(given)[1].stem
        taken = {clean(word) for word in (*words, *names.values())}
        names[given] = f"{stem}-{i + 1}-axis" if clean(stem) in taken else stem
    return names


def first_job(plan: JobPlan, pairs: Sequence[tuple[Axis, Any]]) -> Job:
    """Return the first job of the run, or of the prompt on an axis of prompts. Raises ConfigError if there is none."""
    plan.count = 0
    axis, value = pairs[0]
    job = next(plan.jobs_of_line(value, axis.where) if axis.kind == "prompt" else plan.jobs(), None)
    if job is None:
        raise ConfigError(
            [Problem("error", "there is nothing to generate", "--prompt", "Add a prompt, or an axis of prompts")]
        )
    return job


def axes_of(settings: GenerateSettings) -> list[Axis]:
    """Return the axes that --x and --y describe: none, one or two. Raises ConfigError."""
    problems: list[Problem] = []
    axes = [read_axis(text, flag, problems) for flag, text in (("--x", settings.x), ("--y", settings.y)) if text]
    kinds = [axis.kind for axis in axes if axis]
    if len(set(kinds)) < len(kinds):
        problems.append(Problem("error", f"both axes have the kind `{kinds[0]}`", "--x --y"))
    if problems:
        raise ConfigError(problems)
    return [axis for axis in axes if axis]


def read_axis(text: str, flag: str, problems: list[Problem]) -> Axis | None:
    """Return the axis that a text such as `scale=3,5,7` describes. Errors are added to `problems`."""
    kind, equals, rest = text.partition("=")
    kind = OTHER_NAMES.get(kind.strip().lower(), kind.strip().lower())
    where = f"{flag} {text}"
    if not equals or kind not in READERS:
        problems.append(Problem("error", "is not an axis", where, f"Write KIND=A,B,C with one of {', '.join(READERS)}"))
        return None
    values = []
    for part in BARS.split(rest) if kind == "prompt" else rest.split(","):
        try:
            values.append(READERS[kind](part.strip()))
            if kind == "prompt" and is_enumerated(variants := parse_variants(part)) and count_variants(variants) > 1:
                raise ValueError("this makes several prompts: write them one by one, with | between them")
            if kind == "checkpoint":
                read_given(values[-1])
        except ValueError as error:
            problems.append(Problem("error", f"`{part}`: {error}", where))
        except UserError as error:
            problems.append(error.problem if kind == "checkpoint" else replace(error.problem, where=where))
    return Axis(kind, tuple(values), where)


def apply_value(job: Job, axis: Axis, value: Any, words: Words, names: Mapping[str, str]) -> Job:
    """Return the job with a value of an axis applied. Raises ConfigError if its prompt lacks the words to change."""
    if axis.kind in ("prompt", "none"):
        return job
    if axis.kind == "checkpoint":
        name = names[value]
        spellings = (word_and_file(value)[0], words[name][1].token)
        return replace(job, prompt=replace_words(job.prompt, spellings, lambda _: name, axis.where))
    if axis.kind == "strength":
        weight = f"{value:.4f}".rstrip("0").rstrip(".")
        return replace(job, prompt=replace_words(job.prompt, tuple(words), lambda w: f"({w}:{weight})", axis.where))
    return replace(job, **{axis.kind: value})


def replace_words(prompt: str, words: tuple[str, ...], by: Callable[[str], str], where: str) -> str:
    """Return the prompt with each of `words`, in any case, replaced by a text. Raises ConfigError if it has none."""
    found, count = prompt, 0
    if words:
        pattern = re.compile(whole_word(words).pattern, re.IGNORECASE)
        found, count = pattern.subn(lambda match: by(match.group()), prompt)
    if not count:
        named = " or ".join(f"`{word}`" for word in dict.fromkeys(words)) or "a word of an embedding"
        raise ConfigError(
            [Problem("error", f'the prompt "{prompt}" does not contain {named}', where, "Write the word in the prompt")]
        )
    return found
