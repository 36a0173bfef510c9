"""Reads and checks the prompts of sample images, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from neonym.config.output_settings import SampleSettings
from neonym.errors import Problem, UserError
from neonym.generation.request.prompts import SamplePrompt, read_prompts
from neonym.generation.samplers import sampler_name
from neonym.models.source import ModelSource
from neonym.text.words import clean, whole_word


def sample_prompts(settings: SampleSettings, words: Sequence[str]) -> tuple[list[SamplePrompt], list[Problem]]:
    """Return the prompts of the sample images of a run, and their problems. `words` are the words of the run."""
    intervals = (settings.sample_every_n_steps or 0, settings.sample_every_n_epochs or 0)
    requested = max(intervals) > 0 or settings.sample_at_first
    if settings.sample_prompts is None:
        missing = [
            Problem(
                "error",
                "sample images are requested, but there are no prompts",
                "--sample_prompts",
                "Name a file of prompts",
            )
        ]
        return [], missing if requested else []
    prompts, problems = read_prompts(settings.sample_prompts)
    if not requested:
        fix = "Add --sample_every_n_steps or --sample_every_n_epochs"
        problems.append(Problem("warning", "is set, but no sample images are requested", "--sample_prompts", fix))
    for prompt in prompts:
        try:
            sampler_name(prompt.sample_sampler or settings.sample_sampler)
        except UserError as error:
            problems.append(replace(error.problem, where=settings.sample_prompts))
        if words and not whole_word(tuple(clean(word) for word in words)).search(clean(prompt.prompt)):
            what = f"the prompt `{prompt.prompt}` contains none of the new words, so its images will not change"
            problems.append(Problem("warning", what, settings.sample_prompts))
    return prompts, problems


def oversized_prompts(prompts: Sequence[SamplePrompt], file: str | None, source: ModelSource) -> Iterator[Problem]:
    """Yield an error for each prompt of a `file` whose image would be larger than any that the model reads."""
    most = source.facts.largest_side
    for prompt in prompts:
        side = max(prompt.width or 0, prompt.height or 0)
        if most is not None and side > most:
            what = f"the prompt `{prompt.prompt}` asks for {side} pixels a side, but the model reads at most {most}"
            yield Problem("error", what, file or "")
