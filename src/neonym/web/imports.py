"""Settings from elsewhere: a command, a config file, or the settings of another program."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from neonym import ConfigError, Problem, RunConfig
from neonym.config.command_line import RunFlags, read_run
from neonym.config.flags import read_command_line
from neonym.config.flat import flatten
from neonym.config.other_trainers import AUTOMATIC1111, ONETRAINER, Meaning
from neonym.config.resolve import tomllib
from neonym.web.draft import FIELDS, Draft, draft_of

PROGRAMS = {"OneTrainer": ONETRAINER, "AUTOMATIC1111": AUTOMATIC1111}


def imported(text: str) -> tuple[Draft, list[str]]:
    """Return the settings in a text that was pasted, and notes about what has no meaning here. Raises ConfigError."""
    text = text.strip()
    if not text:
        raise ConfigError([Problem("error", "there is nothing to import", "", "Paste a command or a file")])
    if text.startswith("{"):
        return from_program(text)
    first = next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
    is_table = "=" in first and not first.lstrip().startswith("--") and " --" not in first
    return from_toml(text) if is_table or first.startswith("[") else from_command(text)


def from_command(text: str) -> tuple[Draft, list[str]]:
    """Return the settings of a command of sd-scripts or Neonym, whatever launches it."""
    lines = text.replace("\\\n", " ").replace("^\n", " ").replace("`\n", " ")
    try:
        words = shlex.split(lines, comments=True)
    except ValueError as error:
        raise ConfigError([Problem("error", f"is not a command ({error})", "the text")]) from error
    start = next((i for i, word in enumerate(words) if is_program(word)), -1)
    flags = words[start + 1 :] if start >= 0 else words[first_flag(words) :]
    if not flags:
        raise ConfigError([Problem("error", "is a command without settings", "the text")])
    try:
        line = read_command_line(RunFlags, flags, "neonym train", "")
    except SystemExit as error:  # it asks for help
        raise ConfigError([Problem("error", "is a command without settings", "the text")]) from error
    given = read_run(line.flags, line.argv, line.problems)
    return read(given.run, given.problems)


def is_program(word: str) -> bool:
    """Return whether a word of a command is the program that gets the flags behind it."""
    return word.endswith("textual_inversion.py") or word in ("train", "check") or word.endswith("_inversion")


def first_flag(words: list[str]) -> int:
    """Return the index of the first flag."""
    return next((i for i, word in enumerate(words) if word.startswith("--")), len(words))


def from_toml(text: str) -> tuple[Draft, list[str]]:
    """Return the settings in a config file."""
    try:
        table = flatten(tomllib.loads(text))
    except ValueError as error:
        raise ConfigError([Problem("error", f"is not TOML ({error})", "the text")]) from error
    run = RunConfig.parse(**table)
    return read(run, list(run.notes))


def read(run: RunConfig, problems: list[Problem]) -> tuple[Draft, list[str]]:
    """Return the draft of a run and its problems as texts. Raises ConfigError if one is an error."""
    if any(problem.severity == "error" for problem in problems):
        raise ConfigError(problems)
    return draft_of(run), [str(problem) for problem in problems]


def from_program(text: str) -> tuple[Draft, list[str]]:
    """Return the settings in the JSON of another program, as far as they have a meaning here."""
    try:
        table = flat(json.loads(text))
    except ValueError as error:
        raise ConfigError([Problem("error", f"is not JSON ({error})", "the text")]) from error
    name, meanings = max(PROGRAMS.items(), key=lambda item: len(table.keys() & item[1].keys()))
    known = table.keys() & meanings.keys()
    if not known:
        what = "has none of the settings of OneTrainer or AUTOMATIC1111"
        raise ConfigError([Problem("error", what, "the text", "Paste a command or a TOML file instead")])
    draft, notes = Draft(), []
    for key in sorted(known):
        note = take(draft, key, table[key], meanings)
        if note:
            notes.append(f"{name}'s {key}: {note}.")
    return draft, notes


def take(draft: Draft, key: str, value: Any, meanings: Mapping[str, Meaning]) -> str:
    """Set what a key of another program means, and return a note if it means something else or nothing here."""
    meaning = meanings[key]
    if not meaning.setting:
        return meaning.note
    if meaning.setting not in FIELDS or isinstance(value, (dict, list)) or value is None:
        return ""
    trial = Draft({meaning.setting: value})
    try:
        trial.run()
    except ConfigError:
        return f"{value!r} is not a value of {meaning.setting}"
    draft.set(meaning.setting, value)
    return ""


def flat(table: Any) -> dict[str, Any]:
    """Return all keys of nested tables in one."""
    found: dict[str, Any] = {}
    for key, value in table.items() if isinstance(table, dict) else ():
        found |= flat(value) if isinstance(value, dict) else {key: value}
    return found
