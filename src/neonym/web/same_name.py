"""Runs of one name: whether a run goes on with an earlier one, or would take its place."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from neonym import RunConfig, UserError
from neonym.config.resolve import tomllib
from neonym.config.schema import fields_of
from neonym.web.library import read_word
from neonym.web.saved_state import has_state

LENGTH = ("max_train_steps", "max_train_epochs")
WITHOUT_EFFECT = ("save", "cache", "metadata", "sample", "log", "hub")  # sections that do not decide what is learned
SECTIONS = {name: section for section, name, _ in fields_of(RunConfig)}
SHOWN = 3  # settings that differ


class NameTaken(UserError):
    """Another run has the name of a run that was to be queued.

    `is_replaceable` says whether it has ended, so that its files may go to the bin; `free_name` is a name that no run
    has.
    """

    def __init__(self, what: str, run_folder: Path, fix: str, is_replaceable: bool, others: Collection[str] = ()):
        super().__init__(what, name_of(run_folder), fix)
        self.run_folder, self.is_replaceable = run_folder, is_replaceable
        self.free_name = next(free_names(run_folder, others))


def name_of(run_folder: Path) -> str:
    """Return the name of a run by its folder."""
    return run_folder.name.removesuffix("-run")


def settings_in(file: Path) -> dict[str, Any]:
    """Return the settings in the config file of an entry; none if it cannot be read."""
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the settings that decide what is learned and differ, but not those of the length of the run."""
    names = [
        name
        for name in sorted(old.keys() | new.keys())
        if name not in LENGTH and name != "eval_every_n_steps" and SECTIONS.get(name) not in WITHOUT_EFFECT
    ]
    return [
        f"{name} (was {old.get(name, 'the default')}, is {new.get(name, 'the default')})"
        for name in names
        if content(old, name) != content(new, name)
    ]


def content(settings: dict[str, Any], name: str) -> Any:
    """Return the value of a setting; that of a dataset file is what the file says, as each entry has a file of its own."""
    value = settings.get(name)
    if name == "dataset_config" and isinstance(value, str):
        try:
            return Path(value).read_text("utf-8")
        except (OSError, ValueError):
            return value
    return value


def same_length(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Return whether two runs are equally long."""
    return all(old.get(name) == new.get(name) for name in LENGTH)


def in_short(differing: list[str]) -> str:
    """Return the first settings that differ, for a message."""
    return "; ".join(differing[:SHOWN]) + ("; ..." if len(differing) > SHOWN else "")


def word_file(run_folder: Path) -> Path:
    """Return the file of the word that a run with this folder writes; that of another layout if there is one."""
    name = name_of(run_folder)
    files = [run_folder.with_name(f"{name}.{kind}") for kind in ("safetensors", "pt", "bin", "png")]
    return next((file for file in files if file.is_file()), files[0])


def has_results(run_folder: Path) -> bool:
    """Return whether an earlier run has left a word, or a state from which it goes on."""
    return word_file(run_folder).is_file() or has_state(run_folder)


def files_of(run_folder: Path) -> list[Path]:
    """Return all files and folders of the word of a run."""
    file = word_file(run_folder)
    word = read_word(file) if file.is_file() else None
    return word.files if word else [path for path in (file, run_folder) if path.exists()]


def free_names(run_folder: Path, others: Collection[str] = ()) -> Iterator[str]:
    """Yield the names after that of a run, `name-2`, `name-3`, ..., without those that a run or a word has.

    `others` are the run folders of runs, some of which may not be there yet.
    """
    name = name_of(run_folder)
    for i in range(2, 10_000):
        other = run_folder.with_name(f"{name}-{i}-run")
        if str(other) not in others and not other.exists() and not has_results(other):
            yield f"{name}-{i}"
