"""Plan files: the settings of hundreds of words in one TOML file, read with all its mistakes at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from neonym.config.flat import flatten
from neonym.config.resolve import read_table
from neonym.config.run import RunConfig
from neonym.errors import ConfigError, Problem, nearest
from neonym.fleet.output import LOG, PAGE
from neonym.fleet.shared_folders import MARK
from neonym.fleet.words import Word

SETTING_OF = {  # what a row of [[words]] calls a setting
    "token": "token_string",
    "folder": "train_data_dir",
    "dataset": "dataset_config",
    "model": "pretrained_model_name_or_path",
}
RESERVED = {  # settings that a plan cannot have, and why
    "output_dir": "Pass it on the command line: every word gets a folder of its own in it",
    "restart": "The same command goes on. To do a word again, remove its folder from the output folder",
}
OF_ONE_WORD = ("token_string", "output_name", "resume")  # settings that words cannot share
INTERVALS = {"sample_every_n_steps", "sample_every_n_epochs", "sample_at_first"}
OWN_FILES = (PAGE, LOG, MARK)  # names in the output folder that no word can have
OTHER_CHARACTERS = re.compile(r"[^\w.-]+")


class PlanTable(BaseModel):
    """The top of a plan file."""

    model_config = ConfigDict(extra="forbid", strict=True)
    settings: dict[str, Any] = {}
    words: list[dict[str, Any]] = []
    words_dir: str | None = None
    prompts: list[str] = []


class WordRow(BaseModel):
    """One row of `[[words]]`. Every other key is a setting of this word."""

    model_config = ConfigDict(extra="allow", strict=True)
    token: str
    folder: str | None = None
    dataset: str | None = None
    model: str | None = None


@dataclass
class Reading:
    """The words of a plan file as they are read, and its problems."""

    file: Path
    words: list[Word] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def error(self, what: str, where: str, fix: str = "") -> None:
        """Add an error about a place in the file."""
        self.problems.append(Problem("error", what, f"{self.file} {where}".rstrip(), fix))

    def add_errors(self, error: ConfigError, where: str) -> None:
        """Add the errors of settings at a place in the file."""
        for problem in error.problems:
            self.problems.append(replace(problem, where=f"{self.file} {where}, {problem.where}".rstrip(", ")))


def read_plan(file: Path) -> tuple[list[Word], list[Problem]]:
    """Return the words of a plan file, and the notes and warnings about it.

    Raises ConfigError with everything that is wrong in it: unknown keys, wrong types, names that are there twice.
    """
    reading = Reading(file)
    table = validated(PlanTable, read_table(file, "Check the path of the plan"), "", reading)
    if table is not None:
        read_settings(table.settings, reading)
        rows = [(f"words[{i}]", row) for i, row in enumerate(table.words)]
        given = [read for where, row in rows if (read := read_row(row, where, table.words_dir, reading))]
        found = list(words_below(table.words_dir, given, reading)) if table.words_dir is not None else []
        if not rows and table.words_dir is None and not reading.problems:
            reading.error("has no words", "", "Add [[words]] with a token and a folder, or words_dir = 'FOLDER'")
        for where, own in [*given, *found]:
            add_word(where, own, table.settings, reading)
        reading.words = [with_prompts(word, table.prompts, reading) for word in reading.words]
        check_names(reading)
    if any(problem.severity == "error" for problem in reading.problems):
        raise ConfigError(list(dict.fromkeys(reading.problems)))
    return reading.words, reading.problems


def validated(model: type[Any], table: Any, where: str, reading: Reading) -> Any:
    """Return a table of the plan as a `model`, without keys that are unknown or have values of a wrong type.

    Return None if what is left is not enough.
    """
    try:
        return model.model_validate(table)
    except ValidationError as error:
        wrong = {str(item["loc"][0]) for item in error.errors() if item["loc"]}
        for item in error.errors():
            place = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                fix = nearest(place, tuple(model.model_fields)) or "Settings of all words belong in [settings]"
                reading.error(f"`{place}` is not known", where, fix)
            elif item["type"] == "missing":
                reading.error(f"`{place}` is missing", where)
            else:
                reading.error(f"`{place}`: {item['msg']} (found {item['input']!r})", where)
    rest = without(table, wrong) if isinstance(table, dict) else {}
    return None if rest == table or missing(model, rest) else model.model_validate(rest)


def missing(model: type[BaseModel], table: Mapping[str, Any]) -> bool:
    """Return whether a table lacks a key that a model needs."""
    return any(field.is_required() and name not in table for name, field in model.model_fields.items())


def read_settings(settings: Mapping[str, Any], reading: Reading) -> None:
    """Check `[settings]` by themselves, so that a mistake in them is reported once and not for every word."""
    flat = flatten(settings)
    report_reserved(flat, "[settings]", reading)
    for name in OF_ONE_WORD:
        if name in flat:
            reading.error(f"`{name}` belongs to one word", "[settings]", "Set it in a row of [[words]]")
    try:
        reading.problems += RunConfig.parse(**without(flat, [*RESERVED, *OF_ONE_WORD])).notes
    except ConfigError as error:
        reading.add_errors(error, "[settings]")


def report_reserved(flat: Mapping[str, Any], where: str, reading: Reading) -> None:
    """Report the settings that a plan cannot have."""
    for name in RESERVED:
        if name in flat:
            reading.error(f"`{name}` cannot be set in a plan", where, RESERVED[name])


def without(table: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return a table without some of its keys."""
    left_out = set(names)
    return {name: value for name, value in table.items() if name not in left_out}


def read_row(
    row: dict[str, Any], where: str, words_dir: str | None, reading: Reading
) -> tuple[str, dict[str, Any]] | None:
    """Return the place and the settings of a row of `[[words]]`; None if it cannot be read."""
    read = validated(WordRow, row, where, reading)
    if read is None:
        return None
    own = flatten(read.model_extra or {})
    place = f"{where} (`{read.token}`)"
    report_reserved(own, place, reading)
    named = {SETTING_OF[name]: value for name in SETTING_OF if (value := getattr(read, name)) is not None}
    for name in own.keys() & named.keys():
        short = next(key for key, setting in SETTING_OF.items() if setting == name)
        reading.error(f"`{name}` and `{short}` are the same", place, f"Remove `{name}`")
    if read.folder is not None and read.dataset is not None:
        reading.error("has both a `folder` and a `dataset`", place, "Remove one of them")
    own = {**without(own, RESERVED), **named}
    if words_dir is not None and not {"train_data_dir", "dataset_config", "in_json"} & own.keys():
        own["train_data_dir"] = str(Path(words_dir) / read.token)
    return place, own


def words_below(
    words_dir: str, given: list[tuple[str, dict[str, Any]]], reading: Reading
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the settings of every folder in `words_dir` that no row of `[[words]]` names.

    The word is called like its folder, with `-` in place of blanks and other characters that file names cannot have.
    """
    folders_used = {str(Path(str(own["train_data_dir"])).absolute()) for _, own in given if own.get("train_data_dir")}
    tokens_used = {own["token_string"] for _, own in given}
    if not words_dir:
        reading.error("is empty", "words_dir", "Name a folder of folders, `.` for the current one")
        return
    try:
        folders = sorted(path for path in Path(words_dir).iterdir() if path.is_dir() and not path.name.startswith("."))
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        reason = error.strerror if isinstance(error, OSError) else error
        shown = words_dir.replace("\0", "\\0")
        reading.error(f"`{shown}` cannot be read ({reason})", "words_dir", "Name a folder of folders")
        return
    if not folders:
        reading.error(f"`{words_dir}` has no folders in it", "words_dir", "Every folder below it is a word")
    for folder in folders:
        token = OTHER_CHARACTERS.sub("-", folder.name.strip()).strip("-")
        if str(folder.absolute()) in folders_used or token in tokens_used:
            continue
        if token != folder.name:
            what = f"the word of the folder `{folder.name}` is `{token}`: its captions must contain that"
            reading.problems.append(Problem("note", what, f"{reading.file} words_dir"))
        yield f"words_dir (`{folder.name}`)", {"token_string": token, "train_data_dir": str(folder)}


def add_word(where: str, own: Mapping[str, Any], settings: Mapping[str, Any], reading: Reading) -> None:
    """Add a word with its own settings and those of all words, unless they cannot be read."""
    shared = without(flatten(settings), [*RESERVED, *OF_ONE_WORD])
    settings_are_valid = not any(p.where.startswith(f"{reading.file} [settings]") for p in reading.problems)
    try:
        RunConfig.parse(**own)
        run = RunConfig.parse(**{**(shared if settings_are_valid else {}), **own})
    except ConfigError as error:
        reading.add_errors(error, where)
        return
    token = str(own["token_string"])
    merged = with_shared_latents({**shared, **own}, shared)
    shared_settings = [run.model, run.objective, run.compute, run.concept.train_encoders]
    group = repr(shared_settings)
    reading.words.append(Word(run.save.output_name or token, token, merged, f"{reading.file} {where}", group))


def with_shared_latents(settings: dict[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a word such that regularisation images of all words are encoded once on each machine."""
    return settings if not shared.get("reg_data_dir") else {"cache_latents_to_disk": True, **settings}


def with_prompts(word: Word, prompts: Sequence[str], reading: Reading) -> Word:
    """Return a word with the prompts of its sample images, in which `{word}` stands for it.

    They are generated after its last step, unless its settings say when. A word with a file of prompts keeps that.
    """
    settings = dict(word.settings)
    if not prompts or "sample_prompts" in settings:
        return word
    if not INTERVALS & settings.keys():
        if "max_train_steps" not in settings:
            fix = "Set `sample_every_n_steps`, or `max_train_steps` to generate them after the last one"
            reading.error("there is no setting that says when images are generated", "prompts", fix)
        settings["sample_every_n_steps"] = settings.get("max_train_steps")
    own = tuple(prompt.replace("{word}", word.token) for prompt in prompts)
    return replace(word, settings=settings, prompts=own)


def check_names(reading: Reading) -> None:
    """Report names that cannot be those of a folder, and those that two words have."""
    seen: dict[str, Word] = {}
    for word in reading.words:
        key, where = word.name.casefold(), word.where.removeprefix(f"{reading.file} ")
        if not word.name.strip(".") or set(word.name) & set("/\\\0") or key in OWN_FILES:
            reading.error(f"`{word.name}` cannot be the name of a folder", where, "Set another `output_name`")
        elif key in seen:
            other = seen[key].where.removeprefix(f"{reading.file} ")
            fix = "Set another `token`, or an `output_name` for one of them"
            reading.error(f"has the same name as {other}, so both would write the same files", where, fix)
        seen.setdefault(key, word)
