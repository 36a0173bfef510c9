"""Prepare a generation run and find everything that is wrong with it before any weights are read."""

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
from neonym.formats.fitting import INIT_WORD, fitted
from neonym.generation.conditioning import TextRules
from neonym.generation.embeddings import read_given, word_and_file
from neonym.generation.lora import check_networks
from neonym.generation.request.axes import AxesSheet, Words, plan_sheet
from neonym.generation.request.inspection import InspectionResult, JobInspector, inspect_all, limit_shown
from neonym.generation.request.jobs import JobPlan
from neonym.generation.request.model_fit import (
    model_fit_problems,
    native_values,
    recognised_model,
    sampler_problems,
    sampler_process,
    unread_options,
)
from neonym.generation.samplers import SAMPLERS, default_sampler, sampler_name, split_spacing
from neonym.io.atomic import clear_leftovers, refused_names
from neonym.models.source import ModelSource
from neonym.models.tokenizers.loading import load_tokenizers
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.text.words import clean

T = TypeVar("T")


@dataclass(frozen=True)
class PreparedRun:
    """A generation run without mistakes. `problems` holds warnings and notes."""

    settings: GenerateSettings
    source: ModelSource
    plan: JobPlan
    words: Words
    inspector: JobInspector
    problems: list[Problem]
    sheet: AxesSheet | None = None
    total: int = 0  # how many images, without those of prompts that are typed later


def prepare(settings: GenerateSettings, problems: Iterable[Problem] = ()) -> PreparedRun:
    """Return the run that the settings describe. Raises ConfigError with all problems if one of them is an error."""
    found = [*problems, *generate_problems(settings)]
    settings = without_misplaced(without_empty(settings), found)
    is_known_wrong = any(problem.where == "--ckpt" for problem in found)
    source = None if is_known_wrong else catch_problems(found, lambda: recognised_model(settings))
    settings = with_sampler(settings, source, found)
    catch_problems(found, lambda: check_networks(settings.network_weights))
    catch_problems(found, lambda: check_output_folder(Path(settings.outdir)))
    words = read_embeddings(settings.textual_inversion_embeddings, found)
    plan = JobPlan(settings, native_values(source))
    found += plan.problems
    sheet = catch_problems(found, lambda: plan_sheet(settings, plan, words))
    words |= sheet.words if sheet else {}
    if source:
        own = source.family, source.widths
        words = {word: (file, fitted(embedding, *own)) for word, (file, embedding) in words.items()}
    found += sampler_and_prompt_problems(settings, source, plan, sheet)
    found += model_fit_problems(settings, source, words) if source else ()
    tokenizers = tokenizers_of(source, words, found) if source and not has_errors(found) else {}
    rules = TextRules(settings.max_embeddings_multiples, comfyui=settings.tokenize_as == "comfyui")
    inspector = JobInspector(plan.base, words, tokenizers, rules, unread_options(source) if source else ())
    inspected = inspect_all(inspector, plan, sheet, has_errors(found))
    found += job_problems_of(inspected, settings, plan, found)
    if source is None or has_errors(found):
        raise ConfigError(found)
    if not (settings.interactive or sheet or settings.like):  # prompts come later, or the words are not the user's
        found += unused_words(words, inspected.used)
    return PreparedRun(settings, source, plan, words, inspector, found, sheet, inspected.total)


def without_misplaced(settings: GenerateSettings, found: list[Problem]) -> GenerateSettings:
    """Return the settings without files of the wrong kind for their flags, which are added to `found` as errors."""
    wrong = [misplaced(settings.ckpt, "ckpt"), misplaced(settings.from_file, "from_file")]
    files = {given: word_and_file(given)[1] for given in settings.textual_inversion_embeddings}
    kinds = {given: misplaced(file, "textual_inversion_embeddings") for given, file in files.items() if file.is_file()}
    unread = {given: problem for given, problem in kinds.items() if problem}
    found += [problem for problem in (*wrong, *unread.values()) if problem]
    words = tuple(given for given in files if given not in unread)
    changes = {"textual_inversion_embeddings": words, **({"from_file": None} if wrong[1] else {})}
    return settings.model_copy(update=changes)


def with_sampler(settings: GenerateSettings, source: ModelSource | None, found: list[Problem]) -> GenerateSettings:
    """Return the settings with the sampler's name in SAMPLERS, by default the usual one for the model's process."""
    if "sampler" in settings.model_fields_set:
        name = catch_problems(found, lambda: sampler_name(settings.sampler))
    else:
        name = default_sampler(sampler_process(source))
    return settings.model_copy(update={"sampler": name}) if name else settings


def sampler_and_prompt_problems(
    settings: GenerateSettings, source: ModelSource | None, plan: JobPlan, sheet: AxesSheet | None
) -> Iterator[Problem]:
    """Yield errors for samplers that cannot be used, and for a run without prompts."""
    samplers = [settings.sampler, *(job.sampler for job in (sheet.jobs if sheet else ()))]
    if split_spacing(settings.sampler)[0] in SAMPLERS:
        yield from sampler_problems(samplers, settings, source)
    if not (settings.prompt or settings.from_file or settings.interactive or plan.sources or settings.x or settings.y):
        fix = 'Add one, for example --prompt "a mychar4 on a blue background"'
        yield Problem("error", "there is nothing to generate", "--prompt", fix)


def read_embeddings(given: Iterable[str], found: list[Problem]) -> Words:
    """Return the embedding files by word. Errors and warnings are added to `found`."""
    words: Words = {}
    for one in given:
        word, file = word_and_file(one)
        embedding = catch_problems(found, lambda one=one: read_given(one))
        if not clean(word):
            found.append(Problem("error", "the word is empty", one, "Write WORD=FILE"))
        elif embedding is not None and clean(word) in map(clean, words):
            found.append(
                Problem(
                    "error",
                    f"two files have the word `{word}`",
                    str(file),
                    "Write WORD=FILE to use another word for one of them",
                )
            )
        elif embedding is not None:
            words[word] = (file, embedding)
            if embedding.left_out:
                found.append(Problem("warning", left_out_note(embedding), str(file)))
    return words


def tokenizers_of(source: ModelSource, words: Words, found: list[Problem]) -> dict[str, WordTokenizer]:
    """Return the model's tokenizers with the words added. Adds a warning to `found` for each ordinary word."""
    tokenizers = load_tokenizers(source)
    for word, (file, embedding) in words.items():
        if any(len(tokenizer.ids_of(word)) == 1 for tokenizer in tokenizers.values()):
            what = f"`{word}` is an ordinary word: wherever it occurs in a prompt, it stands for this file"
            found.append(Problem("warning", what, str(file), "Write OTHERWORD=FILE"))
        rows = {name: len(own) for name, own in embedding.vectors.items()}
        init_word = embedding.metadata.get(INIT_WORD, "")
        for name, tokenizer in tokenizers.items():
            stand_in = tokenizer.ids_of(init_word) if name in source.encoders else max(rows.values())
            tokenizer.add_word(word, rows.get(name, stand_in))
    return tokenizers


def job_problems_of(
    inspected: InspectionResult, settings: GenerateSettings, plan: JobPlan, found: Sequence[Problem]
) -> list[Problem]:
    """Return the problems with the jobs of a run that are not in `found` yet."""
    errors = inspected.errors
    if settings.from_file and not (inspected.total or errors or has_errors(found) or settings.interactive):
        errors = [Problem("error", "the file has no prompts", f"--from_file {settings.from_file}")]
    return [*limit_shown(errors), *limit_shown(inspected.warnings), *(p for p in plan.problems if p not in found)]


def unused_words(words: Words, used: set[str]) -> Iterator[Problem]:
    """Yield a warning for each word that no prompt uses."""
    for word, (file, _) in words.items():
        if clean(word) not in used:
            yield Problem("warning", f"no prompt uses `{word}`", str(file))


def has_errors(problems: Iterable[Problem]) -> bool:
    """Return whether one of the problems is an error."""
    return any(problem.severity == "error" for problem in problems)


def catch_problems(problems: list[Problem], action: Callable[[], T]) -> T | None:
    """Return the result of `action`, or None if it raises a UserError, whose problems are added to `problems`."""
    try:
        return action()
    except ConfigError as error:
        problems += error.problems
    except UserError as error:
        problems.append(error.problem)
    return None


def check_output_folder(folder: Path, flag: str = "--outdir", names: Sequence[str] = ()) -> None:
    """Raise UserError if files, including those with these names, cannot be written to a folder.

    Leftovers of killed processes are removed. Folders that are created for the check are removed again.
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
            f"a file in it cannot be named {name} ({reason})", f"{flag} {folder}", f"Choose another with {flag}"
        )
