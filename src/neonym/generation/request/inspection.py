"""Inspect the jobs of a run without generating: mistakes, prompts that are cut off, words used, text without effect."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from neonym.errors import ConfigError, Problem
from neonym.generation.conditioning import TextRules, plain_spelling, words_and_tokens_cut
from neonym.generation.request.axes import AxesSheet
from neonym.generation.request.jobs import Job, JobPlan
from neonym.generation.request.model_fit import UnreadOptions, unread_problems
from neonym.generation.request.other_syntax import find_other_syntax
from neonym.models.tokenizers.word_tokenizer import WordTokenizer

MOST_SHOWN = 20  # problems of the same severity
ENOUGH_JOBS = 20_000  # jobs that are searched for more mistakes in a run that fails anyway
WEIGHT = re.compile(r"\([^()]*:\d*\.?\d+\)")  # emphasis with a number
MEMO_SIZE = 10_000  # prompts that are remembered as read


@dataclass
class JobInspector:
    """A reader of the prompts of jobs, which tokenizes them as the model will, each text once."""

    base: Job  # what all jobs share
    words: Iterable[str]
    tokenizers: Mapping[str, WordTokenizer]  # empty if the model is unknown
    rules: TextRules
    unread: Sequence[UnreadOptions]  # options that the model does not read
    texts: set[str] = field(default_factory=set)  # those read so far

    def inspect(self, job: Job) -> tuple[set[str], list[Problem]]:
        """Return the words in a job's prompts, and warnings about what is cut off or has no effect."""
        used: set[str] = set()
        warnings = list(unread_problems(job, self.base, self.unread)) if self.tokenizers else []
        for text in dict.fromkeys((job.prompt, job.negative_prompt)):
            if text in self.texts:
                continue
            read = [words_and_tokens_cut(tokenizer, text, self.rules) for tokenizer in self.tokenizers.values()]
            used = used.union(*(words for words, _ in read))
            warnings += self.text_warnings(text, max((lost for _, lost in read), default=0))
            if len(self.texts) < MEMO_SIZE:
                self.texts.add(text)
        return used, warnings

    def text_warnings(self, text: str, lost: int) -> Iterator[Problem]:
        """Yield warnings about syntax of other programs in a prompt and about `lost` tokens at its end."""
        where = f'"{text[:60]}"'
        for found, what, fix in find_other_syntax(plain_spelling(text, self.words)):
            yield Problem("warning", f"`{found}` {what} here: it is read as plain text", where, fix)
        own = self.tokenizers.values()
        if own and (weight := WEIGHT.search(text)) and not any(tokenizer.knows_emphasis for tokenizer in own):
            fix = "Remove the brackets and the number"
            what = (
                f"`{weight.group()}` is read as plain text: the model reads a prompt as a chat turn, without emphasis"
            )
            yield Problem("warning", what, where, fix)
        if lost:
            longer = any(tokenizer.chunks_read(self.rules.comfyui) > 1 for tokenizer in own)
            fix = "Raise --max_embeddings_multiples, or shorten it" if longer else "Shorten it"
            yield Problem("warning", f"{lost} tokens at the end are cut off", where, fix)


@dataclass
class InspectionResult:
    """The result of inspecting all jobs."""

    total: int = 0  # images
    used: set[str] = field(default_factory=set)  # words
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def inspect_all(inspector: JobInspector, plan: JobPlan, sheet: AxesSheet | None, briefly: bool) -> InspectionResult:
    """Inspect every job of a sheet or a plan; `briefly` stops after many jobs, for a run that fails anyway."""
    result = InspectionResult()

    def add_errors(error: ConfigError) -> None:
        result.errors.extend(error.problems)

    jobs: Iterable[Job] = sheet.jobs if sheet else plan.jobs(add_errors)
    for job in islice(jobs, ENOUGH_JOBS) if briefly else jobs:
        used, warnings = inspector.inspect(job)
        result.used |= used
        result.warnings += warnings
        result.total += 1
    return result


def limit_shown(problems: list[Problem]) -> list[Problem]:
    """Return the first few problems, each once, followed by the number of those left out."""
    problems = list(dict.fromkeys(problems))
    if len(problems) <= MOST_SHOWN:
        return problems
    more = Problem(problems[0].severity, f"and {len(problems) - MOST_SHOWN} more like these")
    return [*problems[:MOST_SHOWN], more]
