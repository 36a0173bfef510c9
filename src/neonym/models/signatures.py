"""Define how a file of weights is recognised: records that list names and shapes. This module does not need torch.

What shapes cannot tell (whether a model is distilled, for example) follows from words in the metadata or the file
name, and is an assumption: it is reported, and a user can overrule it with --model_version.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from neonym.models.loading.header import Part

Role = Literal["model", "transformer", "text_encoder", "vae", "lora", "other"]
Naming = Literal["original", "diffusers"]
Quant = Literal["fp8", "fp8_scaled_old", "comfy_quant", "bnb_nf4", "gguf"]
BY_USER = "as --model_version says"  # the reason for what the user chooses
RECORDED = ("modelspec.architecture", "modelspec.title", "general.name", "general.basename")  # metadata with a name


@dataclass(frozen=True)
class Refusal:
    """Why words cannot be learned for a model, and what to do instead."""

    what: str
    fix: str = ""


@dataclass(frozen=True)
class Choice:
    """One of several models of the same names and shapes."""

    name: str  # "turbo"
    words: tuple[str, ...] = ()  # each of them tells this one, in metadata or a file name; the first choice needs none
    refused: Refusal | None = None


@dataclass(frozen=True)
class Assumed:
    """A frozen record of which of several models of the same shapes a file is taken for, and why."""

    choice: Choice
    reason: str
    others: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all of these models."""
        return (self.choice.name, *self.others)


@dataclass(frozen=True)
class Signature:
    """The names by which the transformers of one family are recognised."""

    family: str
    label: str  # "FLUX.1"
    keys: tuple[str, ...]  # names that all its files have
    variant: Callable[[Part], str | None]  # what the shapes tell; may raise KeyError for an incomplete file
    naming: Naming = "original"
    role: Role = "transformer"
    absent: tuple[str, ...] = ()  # names that none of its files has
    fits: Callable[[Part], bool] = lambda _: True  # what is to be looked at besides names
    unsupported: Refusal | None = None  # why the family is not supported, if it is not
    refused: Mapping[str, Refusal] = field(default_factory=dict)  # variant -> why this one is not supported
    choices: Mapping[str, tuple[Choice, ...]] = field(default_factory=dict)  # variant -> models of the same shapes

    def choices_of(self, variant: str | None) -> tuple[Choice, ...]:
        """Return the models of the same shapes; those of the first variant if shapes do not tell it, as in a tiny model."""
        return next(iter(self.choices.values()), ()) if variant is None else self.choices.get(variant, ())

    def recognises(self, part: Part) -> bool:
        """Return whether the tensors are those of such a transformer."""
        return (
            all(name in part for name in self.keys)
            and not any(name in part for name in self.absent)
            and self.fits(part)
        )


@dataclass(frozen=True)
class LoraLayer:
    """A frozen record of what a LoRA changes in one layer: its sides, either of which may be unknown."""

    rows: int | None = None
    columns: int | None = None


@dataclass(frozen=True)
class LoraSignature:
    """The layers by which a LoRA is recognised; names have `_` for every dot."""

    family: str
    layer: str  # a regular expression
    fits: Callable[[LoraLayer], bool] = lambda _: True
    variant: Callable[[Mapping[str, LoraLayer]], str | None] = lambda _: None


def always(name: str | None) -> Callable[[Part], str | None]:
    """Return a function that gives every file the same variant."""
    return lambda _: name


def by_size(name: str, axis: int, variants: Mapping[int, str]) -> Callable[[Part], str | None]:
    """Return a function that tells the variant from one side of a weight."""
    return lambda part: variants.get(part.size(name, axis) or 0)


def has_size(name: str, axis: int, *sizes: int) -> Callable[[Part], bool]:
    """Return a function that tells whether a side of a weight is one of `sizes`."""
    return lambda part: part.size(name, axis) in sizes


def assume(
    choices: tuple[Choice, ...], metadata: Mapping[str, str], file_name: str, version: str | None = None
) -> Assumed:
    """Return which of the choices a model is taken for: by the user's `version`, its metadata, its name, or the first.

    A version that is none of them is ignored.
    """
    if version is not None and (named := choice_named(choices, version)) is not None:
        return Assumed(named, BY_USER, others(choices, named))
    recorded = {key: metadata[key] for key in RECORDED if key in metadata}
    places = [
        *((text, f"its metadata ({key}: {text[:60]})") for key, text in recorded.items()),
        (file_name, "its name"),
    ]
    for text, place in places:
        for choice in sorted(choices, key=lambda own: -max(map(len, own.words), default=0)):
            if any(mentions(text, word) for word in choice.words):
                return Assumed(choice, f"according to {place}", others(choices, choice))
    return Assumed(choices[0], "as neither its name nor its metadata says otherwise", others(choices, choices[0]))


def origin_of(assumed: Assumed | None) -> dict[str, Any]:
    """Return which of several models of the same shapes a model is taken for, which no config of a folder has."""
    if assumed is None:
        return {}
    return {"choice": assumed.choice.name, "reason": assumed.reason, "others": list(assumed.others)}


def choice_named(choices: tuple[Choice, ...], version: str) -> Choice | None:
    """Return the choice of this name, or that a word of this name tells; None if there is none."""
    own = version.strip().lower().replace("_", "-")
    named = [choice for choice in choices if choice.name.replace("_", "-") == own]
    return next(iter(named or [choice for choice in choices if own in choice.words]), None)


def others(choices: tuple[Choice, ...], choice: Choice) -> tuple[str, ...]:
    """Return the names of the other choices."""
    return tuple(other.name for other in choices if other is not choice)


def mentions(text: str, word: str) -> bool:
    """Return whether a text has a word; case, and what stands between its parts, do not matter."""
    pattern = r"[\s._-]*".join(map(re.escape, word.split("-")))
    return re.search(rf"(?<![a-z]){pattern}(?![a-z])", text.lower()) is not None
