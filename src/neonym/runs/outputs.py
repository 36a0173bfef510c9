"""The files that a run writes. Their names are tried before training, so that an impossible one is reported at once."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from neonym.config.output_settings import LogSettings
from neonym.config.run import RunConfig
from neonym.config.without_effect import tracker_kinds
from neonym.errors import Problem
from neonym.io.atomic import part_of, refused_names
from neonym.io.json import is_text
from neonym.models.family import Family

STATE = "state.safetensors"  # the state from which an interrupted run continues
END = "finished.safetensors"  # the state of a finished run
VERDICT, EVENTS = "verdict.json", "events.jsonl"
SAMPLES = "sample"
SAVE_NOW, SAMPLE_NOW = "save-now", "sample-now"  # files in the run folder that request something of a run
PROJECT = "textual_inversion"  # the name in trackers, unless --log_tracker_name sets another
LAST_STEP, LAST_EPOCH = 99_999_999, 999_999  # the largest numbers for which file names have digits
SHOWN = 40  # characters shown of each end of a long name


def step_suffix(step: int) -> str:
    """Return the suffix in the file names of a step, in sd-scripts' format."""
    return f"-step{step:08d}"


def epoch_suffix(epoch: int) -> str:
    """Return the suffix in the file names of an epoch, in sd-scripts' format."""
    return f"-{epoch:06d}"


def state_folder(run_name: str, suffix: str = "") -> str:
    """Return the name of a state folder, in sd-scripts' format."""
    return f"{run_name}{suffix}-state"


def sample_name(run_name: str, tag: str, index: int, stamp: str, seed: int | None) -> str:
    """Return the name of a sample image, in sd-scripts' format."""
    return f"{run_name}_{tag}_{index:02d}_{stamp}{'' if seed is None else f'_{seed}'}.png"


def time_stamp() -> str:
    """Return the local time as 14 digits, from the year to the second."""
    return time.strftime("%Y%m%d%H%M%S")


def tracker_folder(log: LogSettings) -> Path | None:
    """Return a new folder for the logs of a run, in sd-scripts' format; None without `--logging_dir`."""
    return None if log.logging_dir is None else Path(log.logging_dir) / f"{log.log_prefix or ''}{time_stamp()}"


def file_names(run: RunConfig, tokens: Sequence[str]) -> list[str]:
    """Return the name of each word's embedding file, without its extension."""
    return [run.save.output_name or tokens[0]] if len(tokens) == 1 else list(tokens)


def run_folder(run: RunConfig, token: str) -> Path:
    """Return the run folder of a word that is alone in its run, which holds its state, its events and its verdict."""
    return folder_named(run, file_names(run, [token])[0])


def folder_named(run: RunConfig, name: str) -> Path:
    """Return the run folder of the word whose file has this name."""
    return Path(run.save.output_dir) / f"{name}-run"


@dataclass(frozen=True)
class Output:
    """A file or folder that a run writes. `where` is the setting that names it."""

    path: Path
    where: str
    is_folder: bool = False


def outputs_of(run: RunConfig, tokens: Sequence[str], seeds: Sequence[int | None]) -> Iterator[Output]:
    """Yield the longest name of each kind of output, outer folders first. `seeds` are those of the sample prompts."""
    log = run.log
    yield Output(Path(run.save.output_dir), "--output_dir", True)
    if log.logging_dir is not None:
        yield Output(Path(log.logging_dir), "--logging_dir", True)
    if log.console_log_file:
        yield Output(Path(log.console_log_file), "--console_log_file")
    if (logs := tracker_folder(log)) is not None and "tensorboard" in tracker_kinds(log):
        yield Output(logs, "--log_prefix", True)
        yield Output(logs / (log.log_tracker_name or PROJECT), "--log_tracker_name", True)
    if tokens:
        yield from outputs_of_words(run, tokens, seeds)


def outputs_of_words(run: RunConfig, tokens: Sequence[str], seeds: Sequence[int | None]) -> Iterator[Output]:
    """Yield the outputs that are named after the words or `--output_name`."""
    for where, name in zip(word_settings(run, tokens), file_names(run, tokens), strict=True):
        yield from outputs_of_word(run, name, where, seeds)


def outputs_of_word(run: RunConfig, name: str, where: str, seeds: Sequence[int | None]) -> Iterator[Output]:
    """Yield the outputs of the word whose file has this name; `where` is the setting or the word that names it."""
    save, home, folder, during = run.save, Path(run.save.output_dir), folder_named(run, name), longest_suffixes(run)
    yield from (Output(home / f"{name}{suffix}.{save.save_model_as}", where) for suffix in ("", *during))
    yield Output(home / f"{name}.md", where)
    yield Output(folder, where, True)
    yield from (Output(folder / file, where) for file in (STATE, END, VERDICT, EVENTS))
    at_end = [""] if save.save_state or save.save_state_on_train_end else []
    for suffix in (*at_end, *(during if save.save_state else ())):
        yield Output(home / state_folder(name, suffix), where, True)
        yield Output(home / state_folder(name, suffix) / STATE, where)
    for index, seed in enumerate(seeds):
        yield Output(home / SAMPLES, "--output_dir", True)
        yield Output(home / SAMPLES / sample_name(name, "e000000", index, time_stamp(), seed), where)


def longest_suffixes(run: RunConfig) -> list[str]:
    """Return the longest suffix in the names of the files that are saved by step and by epoch, if any are."""
    save = run.save
    steps = [step_suffix(LAST_STEP)] if save.save_every_n_steps else []
    return steps + ([epoch_suffix(LAST_EPOCH)] if save.save_every_n_epochs or save.save_n_epoch_ratio else [])


def one_encoder_file(name: str, key: str) -> str:
    """Return the name of a file with the vectors of one encoder alone, which has this key in embedding files."""
    return f"{name}-{key}.safetensors"


def one_encoder_outputs(run: RunConfig, tokens: Sequence[str], keys: Sequence[Sequence[str]]) -> Iterator[Output]:
    """Yield the longest names of files with the vectors of one encoder alone; `keys` are those of each word."""
    home, names = Path(run.save.output_dir), file_names(run, tokens)
    for where, name, own in zip(word_settings(run, tokens), names, keys, strict=True):
        for suffix in ("", *longest_suffixes(run)):
            yield from (Output(home / one_encoder_file(f"{name}{suffix}", key), where) for key in own)


def written_alone(family: Family, with_rows: Collection[str]) -> list[str]:
    """Return the keys of the encoders whose vectors are also written to a file of their own.

    `with_rows` are the encoders for which a word has vectors.
    """
    keys = {spec.name: spec.file_key for spec in family.encoders if spec.name in with_rows}
    return [keys[file.encoder] for file in family.one_encoder_files if file.is_written and file.encoder in keys]


def word_settings(run: RunConfig, tokens: Sequence[str]) -> list[str]:
    """Return the setting or the word that names the file of each word."""
    named = run.save.output_name is not None and len(tokens) == 1
    return ["--output_name"] if named else [f"the word `{token}`" for token in tokens]


def output_problems(run: RunConfig, tokens: Sequence[str], seeds: Sequence[int | None]) -> Iterator[Problem]:
    """Yield an error for each setting that names something that cannot be written. The trials leave no files behind."""
    texts = {"--output_name": run.save.output_name or "", **{f"the word `{token}`": token for token in tokens}}
    for where, text in {**texts, "--output_dir": run.save.output_dir}.items():
        if not is_text(text):
            what = "is not valid Unicode, so it cannot be a file name"
            yield Problem(
                "error", what, where, "Choose another name, or check the encoding of the terminal or the file"
            )
    if not all(map(is_plain_name, texts.values())):  # a path instead of a name is reported with the other settings
        tokens = ()
    yield from longest_refused(list(outputs_of(run, tokens, seeds)))


def longest_refused(outputs: Sequence[Output]) -> Iterator[Problem]:
    """Yield an error for each setting that names something that cannot be written; of several too long, the longest."""
    worst: dict[str, tuple[int, Problem]] = {}
    for excess, problem in refusals(outputs):
        key = problem.where if excess else str(problem)
        if key not in worst or excess > worst[key][0]:
            worst[key] = excess, problem
    yield from (problem for _, problem in worst.values())


def is_plain_name(text: str) -> bool:
    """Return whether a text can be a file name, not a path."""
    return is_text(text) and not set(text) & set("/\\\0")


def refusals(outputs: Sequence[Output]) -> Iterator[tuple[int, Problem]]:
    """Yield an error for each name, folder or path that the disk refuses, with the excess bytes of a long name."""
    split_paths = {output: existing_and_missing(output.path) for output in outputs}
    # the outermost output in each folder
    owners = {folder: output.where for output, (folder, _) in reversed(split_paths.items())}
    refused = {folder: names_refused_in(folder, split_paths.values()) for folder in owners}
    reported: set[Path | str] = set()  # folders and names
    for output, (folder, missing) in split_paths.items():
        names = refused[folder]
        if not missing and folder.is_dir() != output.is_folder:
            reported.add(folder)
            kinds = ("a file", "a folder") if output.is_folder else ("a folder", "a file")
            what = f"{output.path} is {kinds[0]}, but {kinds[1]} with this name is needed"
            yield 0, Problem("error", what, output.where, "Move it away, or choose another name")
        elif missing and names is None:
            if folder not in reported:
                reported.add(folder)
                yield 0, Problem("error", f"{folder} is not a folder that can be written to", owners[folder])
        elif bad := next((name for name in missing if names and name in names), ""):
            if names and bad not in reported:
                reported.add(bad)
                excess = bytes_too_long(bad, folder)
                yield excess, refused_name_problem(bad, names[bad], excess, output.where)
        elif is_too_long(output.path):
            what = f"the path {shortened(str(output.path))} is longer than the system allows"
            yield 0, Problem("error", what, output.where, "Choose a folder closer to the root, or shorter names")


def names_refused_in(folder: Path, split_paths: Iterable[tuple[Path, Sequence[str]]]) -> dict[str, str] | None:
    """Return the names that a folder refuses, with the reasons; None if the folder cannot be written to."""
    try:
        return refused_names(folder, (name for there, names in split_paths if there == folder for name in names))
    except OSError:
        return None


def existing_and_missing(path: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the part of a path that exists, and the names below it that do not exist yet."""
    whole = path.absolute()
    there = next(place for place in (whole, *whole.parents) if os.path.lexists(place))
    return there, whole.relative_to(there).parts


def is_too_long(path: Path) -> bool:
    """Return whether a path, or that of its temporary file, is too long for the system."""
    try:
        os.lstat(part_of(path.absolute()))
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def refused_name_problem(name: str, reason: str, excess: int, where: str) -> Problem:
    """Return the error about a name that the disk refuses."""
    what = f"a name would be {shortened(name)}, which this disk refuses ({reason})"
    if excess > 0:
        what = (
            f"a name would be {shortened(name)}, and that is {excess} byte{'s' * (excess > 1)} too long for this disk"
        )
    fix = (
        "Choose another name"
        if where.startswith("--")
        else "With a single word, --output_name gives its file another name"
    )
    return Problem("error", what, where, fix)


def bytes_too_long(name: str, folder: Path) -> int:
    """Return the number of bytes by which a name is too long; 0 if it is not, or if the limit is unknown."""
    try:
        return max(0, len(os.fsencode(name)) - os.pathconf(folder, "PC_NAME_MAX"))
    except (AttributeError, OSError, ValueError):  # Windows has no pathconf
        return 0


def shortened(text: str) -> str:
    """Return a long text without its middle, so that it can be read."""
    return text if len(text) <= 2 * SHOWN else f"{text[:SHOWN]}...{text[-SHOWN:]}"
