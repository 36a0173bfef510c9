"""Everything that can be wrong with a run of generation, found before a weight is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from neonym.config.file_kinds import misplaced
from neonym.config.generate import GenerateSettings, generate_problems, without_empty
from neonym.errors import ConfigError, Problem, UserError
from neonym.formats import left_out_note
from neonym.generation.conditioning import TextRules
from neonym.generation.embeddings import read_given, word_and_file
from neonym.generation.lora import check_networks
from neonym.generation.request.axes import AxesSheet, Words, plan_sheet
from neonym.generation.request.inspection import Inspected, JobInspector, first_of, inspect_all
from neonym.generation.request.jobs import JobPlan
from neonym.generation.request.model_fit import (
    model_problems,
    native_of,
    process_of,
    recognised_model,
    sampler_problems,
)
from neonym.generation.samplers import SAMPLERS, default_sampler, sampler_name, split_spacing
from neonym.io.atomic import clear_leftovers, refused_names
from neonym.models.source import ModelSource
from neonym.models.tokenizers.loading import load_tokenizers
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.text.words import clean

T = TypeVar("T")


@dataclass(frozen=True)
class Ready:
    """A run of generation in which no mistake was found. `problems` are warnings and notes."""

    settings: GenerateSettings
    source: ModelSource
    plan: JobPlan
    words: Words
    inspector: JobInspector
    problems: list[Problem]
    sheet: AxesSheet | None = None
    total: int = 0  # images, but for those of prompts that are typed later


def prepare(settings: GenerateSettings, problems: Iterable[Problem] = ()) -> Ready:
    """Return the run that the settings describe. Raises ConfigError with everything that is wrong."""
    found = [*problems, *generate_problems(settings)]
    settings = without_misplaced(without_empty(settings), found)
    is_known_wrong = any(problem.where == "--ckpt" for problem in found)
    source = None if is_known_wrong else attempt(found, lambda: recognised_model(settings))
    settings = with_sampler(settings, source, found)
    attempt(found, lambda: check_networks(settings.network_weights))
    attempt(found, lambda: check_folder(Path(settings.outdir)))
    words = read_words(settings.textual_inversion_embeddings, found)
    plan = JobPlan(settings, native_of(source))
    found += plan.problems
    sheet = attempt(found, lambda: plan_sheet(settings, plan, words))
    words |= sheet.words if sheet else {}
    found += setting_problems(settings, source, plan, sheet)
    found += model_problems(settings, source, words) if source else ()
    tokenizers = tokenizers_of(source, words, found) if source and not has_errors(found) else {}
    rules = TextRules(settings.max_embeddings_multiples)
    inspector = JobInspector(plan.base, words, tokenizers, rules, bool(source and source.family.reads_sizes))
    inspected = inspect_all(inspector, plan, sheet, has_errors(found))
    found += job_problems_of(inspected, settings, plan, found)
    if source is None or has_errors(found):
        raise ConfigError(found)
    if not (
        settings.interactive or sheet or settings.like
    ):  # prompts that come later, or words that are not the user's
        found += unused_words(words, inspected.used)
    return Ready(settings, source, plan, words, inspector, found, sheet, inspected.total)


def without_misplaced(settings: GenerateSettings, found: list[Problem]) -> GenerateSettings:
    """Return the settings without files of another kind than their flags take; those go to `found`."""
    wrong = [misplaced(settings.ckpt, "ckpt"), misplaced(settings.from_file, "from_file")]
    files = {given: word_and_file(given)[1] for given in settings.textual_inversion_embeddings}
    kinds = {given: misplaced(file, "textual_inversion_embeddings") for given, file in files.items() if file.is_file()}
    unread = {given: problem for given, problem in kinds.items() if problem}
    found += [problem for problem in (*wrong, *unread.values()) if problem]
    words = tuple(given for given in files if given not in unread)
    changes = {"textual_inversion_embeddings": words, **({"from_file": None} if wrong[1] else {})}
    return settings.model_copy(update=changes)


def with_sampler(settings: GenerateSettings, source: ModelSource | None, found: list[Problem]) -> GenerateSettings:
    """Return the settings with the sampler's name in SAMPLERS; by default the one for the model's process."""
    if "sampler" in settings.model_fields_set:
        name = attempt(found, lambda: sampler_name(settings.sampler))
    else:
        name = default_sampler(process_of(source))
    return settings.model_copy(update={"sampler": name}) if name else settings


def setting_problems(
    settings: GenerateSettings, source: ModelSource | None, plan: JobPlan, sheet: AxesSheet | None
) -> Iterator[Problem]:
    """Yield what is wrong with the samplers, and with a run that has no prompts."""
    samplers = [settings.sampler, *(job.sampler for job in (sheet.jobs if sheet else ()))]
    if split_spacing(settings.sampler)[0] in SAMPLERS:
        yield from sampler_problems(samplers, settings, source)
    if not (settings.prompt or settings.from_file or settings.interactive or plan.sources or settings.x or settings.y):
        fix = 'For example --prompt "a mychar4 on a blue background"'
        yield Problem("error", "there is nothing to generate", "--prompt", fix)


def read_words(given: Iterable[str], found: list[Problem]) -> Words:
    """Return the embedding files under their words; what is wrong goes to `found`."""
    words: Words = {}
    for one in given:
        word, file = word_and_file(one)
        embedding = attempt(found, lambda one=one: read_given(one))
        if not clean(word):
            found.append(Problem("error", "the word has no name", one, "Write WORD=FILE"))
        elif embedding is not None and clean(word) in map(clean, words):
            found.append(Problem("error", f"the word `{word}` is given twice", str(file), "Write WORD=FILE"))
        elif embedding is not None:
            words[word] = (file, embedding)
            if embedding.left_out:
                found.append(Problem("warning", left_out_note(embedding), str(file)))
    return words


def tokenizers_of(source: ModelSource, words: Words, found: list[Problem]) -> dict[str, WordTokenizer]:
    """Return the model's tokenizers with the words added, and a warning in `found` for words that the model knows."""
    tokenizers = load_tokenizers(source)
    for word, (file, embedding) in words.items():
        if any(len(tokenizer.pieces(clean(word))) == 1 for tokenizer in tokenizers.values()):
            what = f"`{word}` is an ordinary word: wherever a prompt has it, it stands for the file"
            found.append(Problem("warning", what, str(file), "Write OTHERWORD=FILE"))
        for name, tokenizer in tokenizers.items():
            tokenizer.add_word(word, len(embedding.vectors[name]))
    return tokenizers


def job_problems_of(
    inspected: Inspected, settings: GenerateSettings, plan: JobPlan, found: Sequence[Problem]
) -> list[Problem]:
    """Return what is wrong with the jobs of a run, beside what was `found` before."""
    errors = inspected.errors
    if settings.from_file and not (inspected.total or errors or has_errors(found) or settings.interactive):
        errors = [Problem("error", "there is no prompt in it", f"--from_file {settings.from_file}")]
    return [*first_of(errors), *first_of(inspected.warnings), *(p for p in plan.problems if p not in found)]


def unused_words(words: Words, used: set[str]) -> Iterator[Problem]:
    """Yield a warning for each word that no prompt uses."""
    for word, (file, _) in words.items():
        if clean(word) not in used:
            yield Problem("warning", f"no prompt uses `{word}`", str(file))


def has_errors(problems: Iterable[Problem]) -> bool:
    """Return whether one of the problems is an error."""
    return any(problem.severity == "error" for problem in problems)


def attempt(problems: list[Problem], action: Callable[[], T]) -> T | None:
    """Return what `action` returns; None if it fails with a UserError, whose problems are added to `problems`."""
    try:
        return action()
    except ConfigError as error:
        problems += error.problems
    except UserError as error:
        problems.append(error.problem)
    return None


def check_folder(folder: Path, flag: str = "--outdir", names: Sequence[str] = ()) -> None:
    """Check that files, and those of these names, can be written to a folder, and remove leftovers of killed processes.

    Folders that were made for the check are removed again. Raises UserError.
    """
    made = [p for p in (folder, *folder.parents) if not os.path.lexists(p)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        refused = refused_names(folder, names)
        clear_leftovers(folder)
    except OSError as error:
        fix = "Choose another folder"
        raise UserError(f"cannot be written to ({error.strerror})", f"{flag} {folder}", fix) from error
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()
    for name, reason in refused.items():
        raise UserError(
            f"no file can be called {name} there ({reason})", f"{flag} {folder}", f"Name another with {flag}"
        )
