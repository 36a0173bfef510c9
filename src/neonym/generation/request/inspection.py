"""Going through the jobs of a run without generating: mistakes, cut prompts, words that are used, idle text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from neonym.errors import ConfigError, Problem
from neonym.generation.conditioning import TextRules, plain_spelling, words_and_loss
from neonym.generation.request.axes import AxesSheet
from neonym.generation.request.jobs import Job, JobPlan
from neonym.generation.request.model_fit import size_problems
from neonym.generation.request.other_syntax import other_meanings
from neonym.models.tokenizers.word_tokenizer import WordTokenizer

MOST_SHOWN = 20  # problems of one kind
ENOUGH = 20_000  # jobs to look through for more mistakes
MOST_MEMORISED = 10_000  # prompts


@dataclass
class JobInspector:
    """Reads the prompts of jobs as the model will, each text once."""

    base: Job  # without a line
    words: Iterable[str]
    tokenizers: Mapping[str, WordTokenizer]  # none if the model is not known
    rules: TextRules
    reads_sizes: bool
    texts: set[str] = field(default_factory=set)  # that were read

    def inspect(self, job: Job) -> tuple[set[str], list[Problem]]:
        """Return the words in a job's prompts, and warnings of what is cut off or has no effect."""
        used: set[str] = set()
        warnings = [] if self.reads_sizes or not self.tokenizers else list(size_problems(job, self.base))
        for text in dict.fromkeys((job.prompt, job.negative_prompt)):
            if text in self.texts:
                continue
            read = [words_and_loss(tokenizer, text, self.rules) for tokenizer in self.tokenizers.values()]
            used = used.union(*(words for words, _ in read))
            warnings += self.text_warnings(text, max((lost for _, lost in read), default=0))
            if len(self.texts) < MOST_MEMORISED:
                self.texts.add(text)
        return used, warnings

    def text_warnings(self, text: str, lost: int) -> Iterator[Problem]:
        """Yield warnings of the syntax of other programs in a prompt, and of `lost` tokens at its end."""
        where = f'"{text[:60]}"'
        for found, what, fix in other_meanings(plain_spelling(text, self.words)):
            yield Problem("warning", f"`{found}` {what} here: it is plain text", where, fix)
        if lost:
            fix = "Raise --max_embeddings_multiples, or shorten it"
            yield Problem("warning", f"{lost} tokens at the end are cut off", where, fix)


@dataclass
class Inspected:
    """What going through all jobs found."""

    total: int = 0  # images
    used: set[str] = field(default_factory=set)  # words
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def inspect_all(inspector: JobInspector, plan: JobPlan, sheet: AxesSheet | None, briefly: bool) -> Inspected:
    """Go through every job of a sheet or a plan; `briefly` stops after many, where the run fails anyway."""
    result = Inspected()

    def complain(error: ConfigError) -> None:
        result.errors.extend(error.problems)

    jobs: Iterable[Job] = sheet.jobs if sheet else plan.jobs(complain)
    for job in islice(jobs, ENOUGH) if briefly else jobs:
        used, warnings = inspector.inspect(job)
        result.used |= used
        result.warnings += warnings
        result.total += 1
    return result


def first_of(problems: list[Problem]) -> list[Problem]:
    """Return the first problems, each once, and how many more there are."""
    problems = list(dict.fromkeys(problems))
    if len(problems) <= MOST_SHOWN:
        return problems
    more = Problem(problems[0].severity, f"and {len(problems) - MOST_SHOWN} more like these")
    return [*problems[:MOST_SHOWN], more]
