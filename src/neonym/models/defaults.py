"""Define the default settings of a model, each with its source. This module does not need torch.

No real model is trained where Neonym is developed, so the defaults of families are published values. `docs/training.md`
says which values are measured and which are taken from other trainers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from neonym.errors import in_one_line

# Standard deviation of a coordinate in the vocabulary of CLIP ViT-L, for which rates are published
PUBLISHED_SPREAD = 0.0133
MOST_SCALED = 10.0  # a published rate is multiplied or divided by at most this
MOST_SCALED_OTHERWISE = 1e4  # the same for encoders other than CLIP, whose vocabularies may be far wider
OWN_SOURCE = "set in its neonym.json"
LONGEST_SOURCE = 120  # characters shown of the source in a neonym.json
PRECISIONS = ("no", "bf16", "fp16", "bf16, else no", "bf16, else fp16")
MOST_VECTORS = 225


@dataclass(frozen=True)
class Default:
    """A default value, the models that it is for, and where it comes from."""

    value: Any
    source: str
    whose: str = "this model"

    def __str__(self) -> str:
        return f"default for {self.whose} ({self.source})"


@dataclass(frozen=True)
class Defaults:
    """The defaults of one model, under the names of the settings."""

    learning_rate: Default
    max_train_steps: Default
    train_batch_size: Default
    num_vectors_per_token: Default
    lr_warmup_steps: Default  # in the form of the setting: steps or a percentage (optim/rates.py limits both)
    save_every_n_steps: Default  # files kept in the run folder; 0: none
    eval_every_n_steps: Default  # with --early_stop
    mixed_precision: Default  # on a CUDA device: one of `PRECISIONS`
    gpu_memory: Default  # GiB that a whole step needs; with less, samples go through the model one at a time


def published(whose: str, **values: tuple[Any, str]) -> Defaults:
    """Return the defaults of a family. `values` maps settings to (value, source) and overrides the usual ones."""
    return Defaults(**{name: Default(value, source, whose) for name, (value, source) in {**USUAL, **values}.items()})


BATCH = (4, "diffusers' examples train 1 x 4; with fewer images per step, a word is harder to combine with others")
VECTORS = (4, "invoke-training, and the most common number in published runs")
WARMUP = ("10%", "invoke-training: 200 of 2,000 steps")
KEPT = (100, "published runs keep a file every 100 to 200 steps; each is kilobytes")
EVALUATED = (50, "chosen so that evaluations cost about a sixth of the training between them")
HALF = ("bf16, else fp16", "diffusers' and invoke-training's examples")
USUAL: dict[str, tuple[Any, str]] = {
    "train_batch_size": BATCH, "num_vectors_per_token": VECTORS, "lr_warmup_steps": WARMUP,
    "save_every_n_steps": KEPT, "eval_every_n_steps": EVALUATED, "mixed_precision": HALF,
}  # fmt: skip


def defaults_of(family: Defaults, spread: float, own: Mapping[str, Any], is_clip: bool = True) -> Defaults:
    """Return the defaults of a model: those of its family, with the learning rate scaled to its `spread`.

    `is_clip` says whether its vocabulary is that of a CLIP encoder. `own` is the content of the model's neonym.json, which takes precedence. Raises ValueError if a value in it
    is invalid.
    """
    found = replace(family, learning_rate=scaled(family.learning_rate, spread, is_clip))
    source = in_one_line(str(own.get("source", OWN_SOURCE)))[:LONGEST_SOURCE]
    names = [field.name for field in fields(Defaults) if field.name in own]
    return replace(found, **{name: Default(valid_setting(name, own[name]), source) for name in names})


def scaled(rate: Default, spread: float, is_clip: bool = True) -> Default:
    """Return the learning rate for a vocabulary whose spread is not that of CLIP ViT-L.

    The rate is the published rate x spread / 0.0133, where the factor is limited to 1/10 to 10 for CLIP. A step of Adam changes
    a number by about the rate, whatever the number's size, so a vocabulary of twice the spread needs twice the rate to
    be crossed in as many steps. The result is rounded to one digit: published rates agree no further, and a fine-tuned
    model keeps the rate of its family.
    """
    most = MOST_SCALED if is_clip else MOST_SCALED_OTHERWISE
    factor = min(max(spread / PUBLISHED_SPREAD, 1 / most), most)
    value = float(f"{rate.value * factor:.0e}")
    if value == rate.value:
        return rate
    source = (
        f"{rate.value:g} ({rate.source}) x {spread:.2g} / {PUBLISHED_SPREAD:g}, the spreads of its words and of CLIP's"
    )
    return replace(rate, value=value, source=source)


def valid_setting(name: str, value: Any) -> Any:
    """Return the value of a setting in a neonym.json. Raises ValueError if it is invalid."""
    if name == "lr_warmup_steps" and is_count(value, 0):
        value = str(value)
    if not FORMS[name](value):
        raise ValueError(f"neonym.json: `{name}` cannot be {value!r}")
    return value


def is_count(value: object, least: int, most: float = math.inf) -> bool:
    """Return whether a value is an integer (not a bool) between `least` and `most`."""
    return type(value) is int and least <= value <= most


FORMS: dict[str, Callable[[Any], bool]] = {
    "learning_rate": lambda value: type(value) in (int, float) and 0 < value < math.inf,
    "max_train_steps": lambda value: is_count(value, 1),
    "train_batch_size": lambda value: is_count(value, 1),
    "num_vectors_per_token": lambda value: is_count(value, 1, MOST_VECTORS),
    "lr_warmup_steps": lambda value: isinstance(value, str) and re.fullmatch(r"\d+|\d\d?%", value) is not None,
    "save_every_n_steps": lambda value: is_count(value, 0),
    "eval_every_n_steps": lambda value: is_count(value, 1),
    "mixed_precision": lambda value: value in PRECISIONS,
    "gpu_memory": lambda value: is_count(value, 0),
}
