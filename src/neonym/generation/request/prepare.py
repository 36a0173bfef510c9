"""Everything that can be wrong with a run of generation, found before a weight is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from neonym.config.file_kinds import misplaced
from neonym.config.generate import GenerateSettings, generate_problems, without_empty
from neonym.errors import ConfigError, Problem, UserError
from neonym.formats import left_out
from neonym.generation.conditioning import TextRules, plain_spelling, words_and_loss
from neonym.generation.embeddings import read_given, word_and_file
from neonym.generation.lora import check_networks
from neonym.generation.request.axes import AxesSheet, Words, plan_sheet
from neonym.generation.request.jobs import Job, Plan
from neonym.generation.request.lines import LETTERS
from neonym.generation.request.other_syntax import foreign_spellings
from neonym.generation.samplers import SAMPLERS, check_pure_noise, parted, sampler_name
from neonym.io.atomic import clear_leftovers, refused_names
from neonym.models.loading.identify import identify
from neonym.models.loading.recognise import source_notes
from neonym.models.source import ModelSource
from neonym.models.tokenizers.loading import load_tokenizers
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.text.words import clean
from neonym.types import Embedding

SHOWN = 20  # problems of one kind
ENOUGH = 20_000  # jobs to look through for more mistakes
MOST_REMEMBERED = 10_000  # prompts
FAMILY_FLAGS = {"v1": "sd1", "v2": "sd2", "sdxl": "sdxl"}
SDXL_SIZES = (
    "original_width", "original_height", "original_width_negative", "original_height_negative", "crop_top", "crop_left",
)  # fmt: skip
UNKNOWN = (512, 7.5)  # size and guidance of a model that is not there


@dataclass
class Ready:
    """A run that was looked through. `problems` are warnings: an error is raised."""

    settings: GenerateSettings
    source: ModelSource
    plan: Plan
    tokenizers: dict[str, WordTokenizer]
    words: dict[str, tuple[Path, Embedding]]
    problems: list[Problem]
    sheet: AxesSheet | None = None
    total: int = 0  # pictures, but for those that are asked for later
    told: set[str] = field(default_factory=set)  # prompts that were looked at


def prepare(settings: GenerateSettings, problems: Iterable[Problem] = ()) -> Ready:
    """Raises ConfigError with everything that is wrong."""
    found = [*problems, *generate_problems(settings)]
    settings = without_misplaced(without_empty(settings), found)
    settings = tried(found, lambda: settings.model_copy(update={"sampler": sampler_name(settings.sampler)})) or settings
    known = any(problem.where == "--ckpt" for problem in found)
    source: ModelSource | None = None if known else tried(found, lambda: recognised(settings))
    tried(found, lambda: check_networks(settings.network_weights))
    tried(found, lambda: check_folder(Path(settings.outdir)))
    words = read_words(settings.textual_inversion_embeddings, found)
    side, scale = (source.native_size, source.guidance) if source else UNKNOWN
    plan = Plan(settings, side, scale)
    found += plan.problems
    sheet = tried(found, lambda: plan_sheet(settings, plan, words))
    words |= sheet.words if sheet else {}
    if settings.zero_terminal_snr or (source and source.configs["scheduler"].get("rescale_betas_zero_snr")):
        samplers = dict.fromkeys([settings.sampler, *(job.sampler for job in (sheet.jobs if sheet else ()))])
        for sampler in samplers if parted(settings.sampler)[0] in SAMPLERS else ():
            tried(found, lambda sampler=sampler: check_pure_noise(sampler))
    if not (settings.prompt or settings.from_file or settings.interactive or plan.sources or settings.x or settings.y):
        fix = 'For example --prompt "a mychar4 on a blue background"'
        found.append(Problem("error", "there is nothing to draw", "--prompt", fix))
    found += model_problems(settings, source, words) if source else ()
    tokenizers = load_tokenizers(source) if source and not failed(found) else {}
    for word, (file, embedding) in words.items():
        if any(len(tokenizer.pieces(clean(word))) == 1 for tokenizer in tokenizers.values()):
            what = f"`{word}` is an ordinary word: wherever a prompt has it, it stands for the file"
            found.append(Problem("warning", what, str(file), "Write OTHERWORD=FILE"))
        for name, tokenizer in tokenizers.items():
            tokenizer.add_word(word, len(embedding.vectors[name]))
    ready = Ready(settings, source, plan, tokenizers, words, found, sheet)  # pyright: ignore[reportArgumentType]
    used = looked_through(ready)
    if failed(found):
        raise ConfigError(found)
    asked = settings.interactive or sheet or settings.like  # prompts that come later, or words that are not the user's
    unused = [] if asked else [word for word in words if clean(word) not in used]
    found += [Problem("warning", f"no prompt uses `{word}`", str(words[word][0])) for word in unused]
    return ready


def without_misplaced(settings: GenerateSettings, found: list[Problem]) -> GenerateSettings:
    """Return the settings without files of another kind than their flags take, which are told."""
    wrong = [misplaced(settings.ckpt, "ckpt"), misplaced(settings.from_file, "from_file")]
    files = {given: word_and_file(given)[1] for given in settings.textual_inversion_embeddings}
    told = {given: misplaced(file, "textual_inversion_embeddings") for given, file in files.items() if file.is_file()}
    unread = {given: problem for given, problem in told.items() if problem}
    found += [problem for problem in (*wrong, *unread.values()) if problem]
    words = tuple(given for given in files if given not in unread)
    changes = {"textual_inversion_embeddings": words, **({"from_file": None} if wrong[1] else {})}
    return settings.model_copy(update=changes)


def read_words(given: Iterable[str], found: list[Problem]) -> Words:
    """The embedding files under their words; what is wrong goes to `found`."""
    words: Words = {}
    for one in given:
        word, file = word_and_file(one)
        embedding = tried(found, lambda one=one: read_given(one))
        if not clean(word):
            found.append(Problem("error", "the word has no name", one, "Write WORD=FILE"))
        elif embedding is not None and clean(word) in map(clean, words):
            found.append(Problem("error", f"the word `{word}` is there twice", str(file), "Write WORD=FILE"))
        elif embedding is not None:
            words[word] = (file, embedding)
            if embedding.left_out:
                found.append(Problem("warning", left_out(embedding), str(file)))
    return words


def model_problems(settings: GenerateSettings, source: ModelSource, words: Words) -> Iterator[Problem]:
    """What does not fit the model."""
    for word, (file, embedding) in words.items():
        yield from misfits(word, file, embedding, source)
    yield from source_notes(source)
    if settings.clip_skip > source.text_layers:
        what = f"{settings.clip_skip} is more than the {source.text_layers} layers of the text encoder"
        yield Problem("error", what, "--clip_skip")
    elif source.family.fixed_text_layer and settings.clip_skip > 2:
        yield Problem("warning", "SDXL reads the last layer but one always", "--clip_skip")
    sizes = [name for name in SDXL_SIZES if getattr(settings, name)]
    if sizes and not source.family.reads_sizes:
        yield Problem("warning", "only SDXL is told sizes", ", ".join(f"--{name}" for name in sizes))


def failed(problems: Iterable[Problem]) -> bool:
    return any(problem.severity == "error" for problem in problems)


def tried(problems: list[Problem], attempt: Callable[[], Any]) -> Any:
    """What `attempt` gives; None if it fails, which goes to `problems`."""
    try:
        return attempt()
    except ConfigError as error:
        problems += error.problems
    except UserError as error:
        problems.append(error.problem)
    return None


def recognised(settings: GenerateSettings) -> ModelSource:
    """The model, by its header or configs. Raises UserError, also if it is of another kind than the flags say."""
    name, path = settings.ckpt, Path(settings.ckpt)
    if "*" in path.name and not path.exists():
        fitting = sorted(path.parent.glob(path.name))
        if len(fitting) != 1:
            raise UserError(f"the pattern fits {len(fitting)} files", f"--ckpt {name}", "It should fit one")
        name = str(fitting[0])
    source = identify(name, settings.vae, settings.v_parameterization or None, settings.offline, settings.variant)
    for flag, family in FAMILY_FLAGS.items():
        if getattr(settings, flag) and source.family.name != family:
            raise UserError(f"the model is of the family {source.family.name}", f"--{flag}", "Leave the flag out")
    if settings.v_parameterization and source.prediction_type != "v_prediction":
        what = f"the model predicts noise, not v: so says {source.prediction_from}"
        raise UserError(what, "--v_parameterization", "Leave the flag out")
    if settings.zero_terminal_snr and source.prediction_type == "epsilon":
        what = "a model that predicts noise can say nothing of pure noise"
        raise UserError(what, "--zero_terminal_snr", "Leave the flag out, or use a model that predicts v")
    return source


def misfits(word: str, file: Path, embedding: Embedding, source: ModelSource) -> Iterator[Problem]:
    """What keeps an embedding from fitting the model, as its configs tell."""
    fix = "Use the kind of model that it was learned with"
    for name, width in source.widths.items():
        rows = embedding.vectors.get(name)
        if rows is None:
            yield Problem("error", f"`{word}` has no vectors for {name}, which {source.name} has", str(file), fix)
        elif rows.shape[1] != width:
            what = f"`{word}` has vectors of {rows.shape[1]} numbers, the words of {source.name} have {width}"
            yield Problem("error", what, str(file), fix)
    for name in set(embedding.vectors) - set(source.encoders):
        yield Problem("error", f"`{word}` was learned for {name}, which {source.name} has not", str(file), fix)


def looked_through(ready: Ready) -> set[str]:
    """Every job once, without drawing: mistakes and cut prompts are found. -> the words that are used"""
    used: set[str] = set()
    wrong: list[Problem] = []
    cut: list[Problem] = []
    jobs = ready.sheet.jobs if ready.sheet else ready.plan.jobs(lambda error: wrong.extend(error.problems))
    for job in islice(jobs, ENOUGH) if failed(ready.problems) else jobs:
        words, lost = look_at(job, ready)
        used |= words
        cut += lost
        ready.total += 1
    if ready.settings.from_file and not (ready.total or wrong or failed(ready.problems) or ready.settings.interactive):
        wrong.append(Problem("error", "there is no prompt in it", f"--from_file {ready.settings.from_file}"))
    ready.problems += [*some_of(wrong), *some_of(cut), *(p for p in ready.plan.problems if p not in ready.problems)]
    return used


def some_of(problems: list[Problem]) -> list[Problem]:
    """The first ones, each once, and how many there are more."""
    problems = list(dict.fromkeys(problems))
    if len(problems) <= SHOWN:
        return problems
    more = Problem(problems[0].severity, f"and {len(problems) - SHOWN} more like these")
    return [*problems[:SHOWN], more]


def look_at(job: Job, ready: Ready) -> tuple[set[str], list[Problem]]:
    """-> the words in its prompts, and warnings for what of its line is cut off or does nothing"""
    used: set[str] = set()
    told_none = ready.tokenizers and not ready.source.family.reads_sizes
    warnings = list(sizes_problems(job, ready.plan.base)) if told_none else []
    rules = TextRules(ready.settings.max_embeddings_multiples)
    for text in dict.fromkeys((job.prompt, job.negative_prompt)):
        if text in ready.told:
            continue
        for spelled, what, fix in foreign_spellings(plain_spelling(text, ready.words)):
            warnings.append(Problem("warning", f"`{spelled}` {what} here: it is plain text", f'"{text[:60]}"', fix))
        read = [words_and_loss(tokenizer, text, rules) for tokenizer in ready.tokenizers.values()]
        used = used.union(*(words for words, _ in read))
        if lost := max((lost for _, lost in read), default=0):
            fix = "Raise --max_embeddings_multiples, or say it shorter"
            warnings.append(Problem("warning", f"{lost} tokens at the end are cut off", f'"{text[:60]}"', fix))
        if len(ready.told) < MOST_REMEMBERED:
            ready.told.add(text)
    return used, warnings


def sizes_problems(job: Job, base: Job) -> Iterator[Problem]:
    """A warning for sizes that a line tells a model which is told none."""
    said = [name for name in SDXL_SIZES if getattr(job, name) != getattr(base, name)]
    if said:
        flags = ", ".join(f"--{letter}" for letter, (name, _) in LETTERS.items() if name in said)
        yield Problem("warning", f"{flags}: only SDXL is told sizes", job.raw_prompt[:80])


def check_folder(folder: Path, flag: str = "--outdir", names: Sequence[str] = ()) -> None:
    """Raises UserError if no files, or none of these names, can be written there. What was made for the check is removed,
    and so is what killed processes left half-written.
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
        raise UserError(f"{name} can be no file there ({reason})", f"{flag} {folder}", f"Name another with {flag}")
