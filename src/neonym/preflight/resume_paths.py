"""Explains why a path cannot be resumed from, which program's state it is, and how to start from it instead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from neonym.config.file_kinds import EMBEDDING, file_kind
from neonym.errors import Problem
from neonym.runs.outputs import END, STATE

ACCELERATE = {  # names that identify a state of accelerate, unlike those of its model files
    "optimizer.bin", "optimizer.safetensors", "scheduler.bin", "sampler.bin", "train_state.json", "scaler.pt",
}  # fmt: skip
RANDOM_STATE = re.compile(r"random_states_\d+\.pkl")
FROM_VECTORS = "it holds a whole text encoder and the state of random generators, from which Neonym cannot resume"


def resume_problem(place: str) -> Problem | None:
    """Return why a path cannot be resumed from; None if it is a folder with a state of Neonym."""
    path, where = Path(place), f"--resume {place}"
    if (path / STATE).is_file():
        return None
    if not path.exists():
        again = "Running the same command again, without --resume, continues where it stopped"
        fix = again if place in ("latest", "true", "True") else f"Check the path. {again}"
        return Problem("error", "there is no such folder", where, fix)
    for folder in (path, path.parent) if path.is_file() else (path,):
        whose = program_of_state(folder)
        if whose:
            return Problem("error", f"is a training state of {whose}: {FROM_VECTORS}", where, start_from(folder))
    if path.is_file():
        return file_problem(path, where)
    own = sorted(str(state.parent) for state in path.glob(f"*/{STATE}"))
    if own:
        return Problem(
            "error", f"contains no {STATE}; there is one in {', '.join(own[:5])}", where, "Use one of these folders"
        )
    if (path / END).is_file():
        what = "is the folder of a finished run"
        fix = "To continue from its end, run the same command again, without --resume and with more --max_train_steps"
        return Problem("error", what, where, fix)
    words = [str(file) for file in embeddings_in(path)]
    fix = (
        f"Start from the vectors of an embedding file instead: --weights {words[0]}"
        if words
        else "Use a `-state` folder"
    )
    return Problem("error", f"contains no {STATE}", where, fix)


def file_problem(path: Path, where: str) -> Problem:
    """Return the problem of resuming from a file, since a state is a folder."""
    if (path.parent / STATE).is_file():
        return Problem(
            "error", "is a file within a state, but --resume takes the folder", where, f"Use --resume {path.parent}"
        )
    if path.suffix == ".optim":
        fix = f"Start from the vectors of its embedding: --weights {path.with_suffix('')}"
        return Problem("error", "is an optimizer state of AUTOMATIC1111", where, fix)
    kind = file_kind(path)
    if kind == EMBEDDING:
        fix = f"Start from its vectors instead: --weights {path}"
        return Problem("error", "is an embedding, which contains no training state", where, fix)
    fix = kind.fix if kind and kind.fix else "Use a `-state` folder"
    return Problem("error", f"is {kind.what if kind else 'a file'}, not a state folder", where, fix)


def program_of_state(folder: Path) -> str:
    """Return which program a training state belongs to; an empty string if the folder is not a known state."""
    names = {child.name for child in folder.iterdir()} if folder.is_dir() else set()
    if not (ACCELERATE & names or any(map(RANDOM_STATE.fullmatch, names))):
        return ""
    if re.fullmatch(r"checkpoint-\d+", folder.name):
        return "diffusers"
    return (
        "sd-scripts"
        if folder.name.endswith("-state")
        else "another program (sd-scripts or diffusers, judging by its files)"
    )


def start_from(state: Path) -> str:
    """Return the advice to start from the embedding file that belongs to another program's state."""
    name, number = state.name.removesuffix("-state"), state.name.rpartition("-")[2]
    beside = list(embeddings_in(state.parent))
    of_state = [
        file for file in beside if file.stem == name or (number.isdecimal() and file.stem.endswith(f"-{number}"))
    ]
    best = max(of_state or beside, key=lambda file: file.stat().st_mtime, default=None)
    vectors = "the embedding file that was saved with it: --weights FILE" if best is None else f"--weights {best}"
    return f"Start a new run from the vectors: {vectors}"


def embeddings_in(folder: Path) -> Iterator[Path]:
    """Yield the embedding files of a folder."""
    with suppress(OSError):
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() in (".safetensors", ".pt", ".bin", ".ckpt") and file_kind(file) == EMBEDDING:
                yield file
