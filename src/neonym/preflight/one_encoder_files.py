"""Checks the files of a run that hold the vectors of one encoder alone, for programs that read no others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from neonym.config.run import RunConfig
from neonym.errors import Problem
from neonym.models.source import ModelSource
from neonym.preflight.words import StartingRows, encoders_with_rows
from neonym.runs.outputs import file_names, longest_refused, one_encoder_file, one_encoder_outputs, written_alone

DURING = r"(-step\d{8}|-\d{6})?"  # the suffix in the name of a file that is saved during a run
FIX = "Move that file away, or choose another --output_name or --output_dir"


def one_encoder_problems(
    run: RunConfig, source: ModelSource, tokens: Sequence[str], rows: Mapping[str, StartingRows]
) -> Iterator[Problem]:
    """Yield an error for each of these files that cannot be written, or that has the name of another word's file."""
    with_rows = [encoders_with_rows(run, source, rows.get(token)) for token in tokens]
    keys = [written_alone(source.family, own) for own in with_rows]
    yield from longest_refused(list(one_encoder_outputs(run, tokens, keys)))
    names, home = file_names(run, tokens), Path(run.save.output_dir)
    yield from replaced_words(home, names, keys)
    if run.save.save_model_as == "safetensors":  # otherwise, the files of words have other names
        yield from shared_names(names, keys)
        yield from replaced_seconds(home, names, keys)


def shared_names(names: Sequence[str], keys: Sequence[Sequence[str]]) -> Iterator[Problem]:
    """Yield an error for each word of the run whose file has the name of another word's second file."""
    for name, own in zip(names, keys, strict=True):
        seconds = [re.compile(f"{re.escape(name)}{DURING}-{re.escape(key)}", re.IGNORECASE) for key in own]
        for other in names:
            if any(second.fullmatch(other) for second in seconds):
                what = f"`{name}` has a second file of this name, with the vectors of one encoder alone"
                yield Problem("error", what, f"the file name `{other}`", "Rename one of the words")


def replaced_words(home: Path, names: Sequence[str], keys: Sequence[Sequence[str]]) -> Iterator[Problem]:
    """Yield an error for each second file that would replace the file of a word of another run."""
    for name, own in zip(names, keys, strict=True):
        for second in (home / one_encoder_file(name, key) for key in own):
            if second.is_file() and has_card(home, second.stem) and second.stem not in names:
                what = f"has a second file {second.name}, but that is the file of another word in {home}"
                yield Problem("error", what, f"the file name `{name}`", FIX)


def replaced_seconds(home: Path, names: Sequence[str], keys: Sequence[Sequence[str]]) -> Iterator[Problem]:
    """Yield an error for each file of a word that would replace the second file of a word of another run."""
    for name, own in zip(names, keys, strict=True):
        for first in (name.removesuffix(f"-{key}") for key in own if name.endswith(f"-{key}")):
            if (home / f"{name}.safetensors").is_file() and has_card(home, first) and not has_card(home, name):
                what = f"is that of the second file of `{first}` in {home}, with the vectors of one encoder alone"
                yield Problem("error", what, f"the file name `{name}`", FIX)


def has_card(home: Path, name: str) -> bool:
    """Return whether a card is beside a file: it is that of a word, not a second one."""
    return (home / f"{name}.md").is_file()
