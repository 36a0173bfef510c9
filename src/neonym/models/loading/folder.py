"""A model in Diffusers' layout: its configs, and which of its files are the weights of each part."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from neonym.errors import ModelError

NAME = re.compile(  # of a file of weights: which of how many it is, and its variant, in either order
    r"(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?:-(?P<first>\d+-of-\d+))?(?:\.(?P<variant>[\w-]+?))?(?:-(?P<last>\d+-of-\d+))?\.(?P<ending>safetensors|bin)"
)
VARIANTS = (None, "fp32", "ema", "bf16", "fp16")  # of several, the first: None is the plain one
HALVES = ("fp16", "bf16")
OWN_CONFIGS = ("model_index.json", "neonym.json")  # in the folder itself
TOKENIZER = ("vocab.json", "merges.txt")


@dataclass(frozen=True)
class Weights:
    """Where the weights of one part are."""

    files: tuple[Path, ...]
    variant: str | None = None  # "fp16": the files carry that in their names
    start: str = ""  # what the names of the weights begin with, in a checkpoint of one file


@dataclass(frozen=True)
class Choice:
    """One of the forms in which a part is there: a whole file or several, of one variant and one ending."""

    variant: str | None
    ending: str
    count: int  # files that it has when it is complete
    names: tuple[str, ...]

    @property
    def missing(self) -> int:
        return self.count - len(self.names)


def forms(names: Iterable[str]) -> list[Choice]:
    """Return the forms in which a part is there, from the names of its files."""
    found: dict[tuple[str | None, str, int], list[str]] = {}
    for name in sorted(names):
        if match := NAME.fullmatch(name):
            shard = match["first"] or match["last"]
            count = int(shard.rpartition("-")[2]) if shard else 1
            found.setdefault((match["variant"], match["ending"], count), []).append(name)
    return [Choice(*key, tuple(own)) for key, own in found.items()]


def choose(names: Iterable[str], order: Sequence[str | None] = VARIANTS) -> Choice | None:
    """Return the form to use: a complete one if there is one, of the first variant in `order`, no pickle if there is a choice."""

    def rank(form: Choice) -> tuple[bool, int, str, bool, int]:
        place = order.index(form.variant) if form.variant in order else len(order)
        return form.missing > 0, place, form.variant or "", form.ending == "bin", form.count

    return min(forms(names), key=rank, default=None)


def order_of(variant: str | None, half: bool = False) -> tuple[str | None, ...]:
    """Return the variants from the best to the worst: the one asked for; then, for a part in half precision, the small ones."""
    small = HALVES if half else ()
    return tuple(dict.fromkeys([*([variant] if variant else ()), *small, *VARIANTS]))


def usual_name(part: str) -> str:
    """Return the usual name of the file of a part's weights."""
    return f"{part}/{'model' if part.startswith('text_encoder') else 'diffusion_pytorch_model'}.safetensors"


def form_in(folder: Path, order: Sequence[str | None] = VARIANTS) -> Choice | None:
    return choose((p.name for p in folder.iterdir()) if folder.is_dir() else (), order)


def lacking(folder: Path, parts: Iterable[str]) -> list[str]:
    """Return the usual file of each part whose weights are not complete."""
    forms_there = {part: form_in(folder / part) for part in parts}
    return [usual_name(part) for part, form in forms_there.items() if form is None or form.missing]


def weights_in(folder: Path, name: str, variant: str | None = None) -> Weights:
    """Return the weights of one part; `name` is the model's, for messages. Raises ModelError if some are missing."""
    form = form_in(folder, order_of(variant))
    if form is None:
        what = f"has no weights in `{folder.name}` (such as {usual_name(folder.name)})"
        raise ModelError(what, name, f"Its place is {folder}: is the folder complete?")
    if form.missing:
        there = ", ".join(form.names[:3])
        what = f"{form.missing} of the {form.count} files of its `{folder.name}` are not there (beside {there})"
        raise ModelError(what, name, "Fetch them again: is the folder complete?")
    return Weights(tuple(folder / file for file in form.names), form.variant)


def folder_weights(folder: Path, parts: Iterable[str], name: str, variant: str | None = None) -> dict[str, Weights]:
    """Return the weights of each of `parts`. Raises ModelError."""
    return {part: weights_in(folder / part, name, variant) for part in parts}


def check_variant(weights: dict[str, Weights], name: str, variant: str | None) -> None:
    """Raise ModelError if a variant was asked for that no part has."""
    if variant is not None and all(own.variant != variant for own in weights.values()):
        beside = (p.name for own in weights.values() for p in own.files[0].parent.iterdir())
        known = sorted({form.variant or "the plain one" for form in forms(beside)})
        raise ModelError(f"has no weights of the variant {variant}", name, f"It has {', '.join(known)}")


def diffusers_configs(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """Return the config of every component. Raises ModelError."""
    if not (folder / "model_index.json").is_file():
        if (folder.parent / "model_index.json").is_file():
            raise ModelError("is a part of a Diffusers folder", name, f"Name the whole: {folder.parent}")
        known = (
            "a checkpoint file, a Diffusers folder (with model_index.json), a hub ID (owner/name) or the built-in model"
        )
        what = f"is not {known}" if folder.exists() else f"there is no such file or folder, nor is it {known}"
        raise ModelError(what, name, "Check how its name is written")
    return read_configs(folder)


def read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the configs by the names of their components, those of the folder itself by their own. Raises ModelError."""
    own = (folder / name for name in OWN_CONFIGS)
    parts = (folder.glob("*/config.json"), folder.glob("*/scheduler_config.json"), filter(Path.is_file, own))
    configs = {}
    for file in sorted(chain.from_iterable(parts)):
        configs[file.parent.name if file.parent != folder else file.stem] = read_config(file)
    return configs


def read_config(file: Path) -> dict[str, Any]:
    """Return the table in a JSON file. Raises ModelError."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot be read ({error})", str(file)) from error
    if not isinstance(content, dict):
        raise ModelError("is no config: a table is needed", str(file), "Fetch it again")
    return content


def check_tokenizer(folder: Path) -> None:
    """Raise ValueError for a tokenizer without its words: an empty one would be made of it."""
    missing = [name for name in TOKENIZER if not (folder / name).is_file()]
    if not (folder / "tokenizer.json").is_file() and missing:
        raise ValueError(f"{folder} has no {' and no '.join(missing)}")
