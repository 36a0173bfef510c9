"""Define how models of a family are made of single files. This module does not need torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from neonym.models.loading.header import Part

Config = dict[str, Any]


@dataclass(frozen=True)
class MorePart:
    """A part that files have inside the transformer, under a prefix of its own."""

    start: str  # "llm_adapter."
    config_from: Callable[[Part], Config]  # takes the tensors of the transformer


@dataclass(frozen=True)
class FileLayout:
    """The transformer of a family in a file, and what its text encoders and VAE must be, whichever files have them.

    The kind of each text encoder is the key of its rows in embedding files.
    """

    config_from: Callable[[Part], Config]  # of the transformer under its original names; raises KeyError
    from_original_names: Callable[[dict[str, Any], Config], dict[str, Any]]
    family: str  # the name of its signatures
    vae: str  # kind of the VAE
    scheduler: Callable[[str | None, str], Config]  # takes the variant, and what the file is taken for
    vae_example: str = "ae.safetensors"  # how its VAE is usually called
    vae_words: tuple[str, ...] = ()  # in the names of files of its VAE, if other families have VAEs of the same shapes
    variants: tuple[str, ...] = ()  # those of the family, if other variants are families of their own
    more: Mapping[str, MorePart] = field(default_factory=dict)  # component -> a part inside the transformer


def flow_scheduler(shift: float, dynamic: bool = False) -> Config:
    """Return the config of the scheduler of a rectified flow; `dynamic` shifts by the size of the image as well."""
    return {
        "_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": shift,
        "use_dynamic_shifting": dynamic, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
    }  # fmt: skip


def always_shift(shift: float, dynamic: bool = False) -> Callable[[str | None, str], Config]:
    """Return a function that gives every variant the same scheduler."""
    return lambda _variant, _choice: flow_scheduler(shift, dynamic)
