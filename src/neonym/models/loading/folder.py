"""Read a model in Diffusers' layout: its configs, and which files hold the weights of each part."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from neonym.errors import ModelError

NAME = re.compile(  # of a weight file: shard and variant, in either order
    r"(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?:-(?P<first>\d+-of-\d+))?(?:\.(?P<variant>[\w-]+?))?(?:-(?P<last>\d+-of-\d+))?\.(?P<ending>safetensors|bin)"
)
VARIANTS = (None, "fp32", "ema", "bf16", "fp16")  # in order of preference; None is the file without a variant
HALVES = ("fp16", "bf16")
INDEX = "model_index.json"
INDEXES = (INDEX, "modular_model_index.json")  # the second one is that of diffusers' modular pipelines
OWN_CONFIGS = (*INDEXES[::-1], "neonym.json")  # configs at the top of the folder
TOKENIZER = ("vocab.json", "merges.txt")


@dataclass(frozen=True)
class Weights:
    """The files with the weights of one part."""

    files: tuple[Path, ...]
    variant: str | None = None  # such as "fp16", part of the file names
    start: str = ""  # prefix of the weights in a single-file checkpoint
    original: bool = False  # a denoiser under the names of the program that it comes from


@dataclass(frozen=True)
class Choice:
    """One form of a part's weights: one file or several shards, with one variant and one extension."""

    variant: str | None
    ending: str
    count: int  # number of files when complete
    names: tuple[str, ...]

    @property
    def missing(self) -> int:
        """The number of files that are missing."""
        return self.count - len(self.names)


def forms_of(names: Iterable[str]) -> list[Choice]:
    """Return the available forms of a part, from the names of its files."""
    found: dict[tuple[str | None, str, int], list[str]] = {}
    for name in sorted(names):
        if match := NAME.fullmatch(name):
            shard = match["first"] or match["last"]
            count = int(shard.rpartition("-")[2]) if shard else 1
            found.setdefault((match["variant"], match["ending"], count), []).append(name)
    return [Choice(*key, tuple(own)) for key, own in found.items()]


def choose(names: Iterable[str], order: Sequence[str | None] = VARIANTS) -> Choice | None:
    """Return the preferred form, or None: complete before incomplete, variants as in `order`, pickles last."""

    def rank(form: Choice) -> tuple[bool, int, str, bool, int]:
        place = order.index(form.variant) if form.variant in order else len(order)
        return form.missing > 0, place, form.variant or "", form.ending == "bin", form.count

    return min(forms_of(names), key=rank, default=None)


def order_of(variant: str | None, half: bool = False) -> tuple[str | None, ...]:
    """Return the variants in order of preference: the requested one, then half precision if `half`, then the others."""
    small = HALVES if half else ()
    return tuple(dict.fromkeys([*([variant] if variant else ()), *small, *VARIANTS]))


def usual_name(part: str) -> str:
    """Return the usual file name of a part's weights."""
    return f"{part}/{'model' if part.startswith('text_encoder') else 'diffusion_pytorch_model'}.safetensors"


def form_in(folder: Path, order: Sequence[str | None] = VARIANTS) -> Choice | None:
    """Return the preferred form of the weights in a folder, or None if there are none."""
    return choose((p.name for p in folder.iterdir()) if folder.is_dir() else (), order)


def incomplete_parts(folder: Path, parts: Iterable[str]) -> list[str]:
    """Return the usual file name of each part whose weights are incomplete."""
    found = {part: form_in(folder / part) for part in parts}
    return [usual_name(part) for part, form in found.items() if form is None or form.missing]


def weights_in(folder: Path, name: str, variant: str | None = None) -> Weights:
    """Return the weights of the part in `folder`. Raises ModelError, with the model's `name`, if files are missing."""
    form = form_in(folder, order_of(variant))
    if form is None:
        what = f"has no weights in `{folder.name}` (such as {usual_name(folder.name)})"
        raise ModelError(what, name, f"They belong in {folder}: is the model complete?")
    if form.missing:
        present = ", ".join(form.names[:3])
        what = f"{form.missing} of the {form.count} files of its `{folder.name}` are missing (present: {present})"
        raise ModelError(what, name, "Download them again: is the folder complete?")
    return Weights(tuple(folder / file for file in form.names), form.variant)


def folder_weights(folder: Path, parts: Iterable[str], name: str, variant: str | None = None) -> dict[str, Weights]:
    """Return the weights of each of `parts`. Raises ModelError if files are missing."""
    return {part: weights_in(folder / part, name, variant) for part in parts}


def check_variant(weights: dict[str, Weights], name: str, variant: str | None) -> None:
    """Raise ModelError if no part has the requested variant."""
    if variant is not None and all(own.variant != variant for own in weights.values()):
        beside = (p.name for own in weights.values() for p in own.files[0].parent.iterdir())
        known = sorted({form.variant or "the one without a variant" for form in forms_of(beside)})
        raise ModelError(f"has no weights of the variant {variant}", name, f"It has {', '.join(known)}")


def diffusers_configs(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """Return the config of every component that the index names. Raises ModelError if it is not a Diffusers folder."""
    if index_in(folder) is None:
        if index_in(folder.parent) is not None:
            raise ModelError("is a part of a Diffusers folder", name, f"Name the whole folder: {folder.parent}")
        known = (
            "a checkpoint file, a Diffusers folder (with model_index.json), a hub ID (owner/name) or the built-in model"
        )
        what = f"is not {known}" if folder.exists() else f"there is no such file or folder, nor is it {known}"
        raise ModelError(what, name, "Check the spelling of its name")
    configs = read_configs(folder)
    absent = {part for part, kind in configs["model_index"].items() if kind == [None, None]}
    return {part: config for part, config in configs.items() if part not in absent}


def index_in(folder: Path) -> Path | None:
    """Return the index of a Diffusers folder, or None for any other folder."""
    return next(filter(Path.is_file, (folder / name for name in INDEXES)), None)


def read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the configs by component, and those at the top of the folder by file name. Raises ModelError.

    The index of a modular pipeline takes the place of that of another pipeline.
    """
    parts = sorted(chain(folder.glob("*/config.json"), folder.glob("*/scheduler_config.json")))
    configs = {file.parent.name: text_part(read_config(file)) for file in parts}
    for file in (folder / name for name in OWN_CONFIGS):
        if file.is_file():
            configs[file.stem.removeprefix("modular_")] = read_config(file)
    return configs


def text_part(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config of the language model in that of a model that reads images too, and any other one unchanged."""
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def read_config(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises ModelError if it cannot be read."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot be read ({error})", str(file)) from error
    if not isinstance(content, dict):
        raise ModelError("is not a config: it must be a JSON object", str(file), "Download it again")
    return content


def check_tokenizer(folder: Path) -> None:
    """Raise ValueError if a tokenizer has no vocabulary files: transformers would create an empty one."""
    missing = [name for name in TOKENIZER if not (folder / name).is_file()]
    if not (folder / "tokenizer.json").is_file() and missing:
        raise ValueError(f"{folder} has no {' and no '.join(missing)}")
