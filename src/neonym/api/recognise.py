"""Recognise models, and the pieces that they read in a text, without their weights. This module does not need torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from neonym.api.wording import python_wording
from neonym.models.loading.identify import identify
from neonym.models.loading.separate_files import ANY_ENCODER, Given
from neonym.models.tokenizers.loading import load_tokenizers


@dataclass(frozen=True)
class ModelFacts:
    """The facts about a model, from its configs or the header of its file."""

    name: str
    family: str  # "sd1", "flux1"
    label: str  # "Stable Diffusion 1.x"
    process: str  # "diffusion" or "flow"
    native_size: int  # pixels per side that it was trained for
    prediction_type: str  # "epsilon", "v_prediction" or "velocity"
    encoders: tuple[str, ...]  # the keys of its text encoders in embedding files
    defaults: Mapping[str, Any]  # setting -> the value that it has for this model


def recognise(
    name: str | Path,
    offline: bool = False,
    *,
    text_encoders: Sequence[str | Path] = (),
    vae: str | Path | None = None,
    model_version: str | None = None,
) -> ModelFacts:
    """Return what a model is: a checkpoint file, a Diffusers folder, a hub ID or a built-in model.

    A transformer in a file needs its `text_encoders` and `vae`; `model_version` is which of several models of the same
    shapes it is. No weights are read except a sample of the vocabulary. Raises ModelError if the model is unsupported,
    incomplete or damaged.
    """
    with python_wording():
        given = [Given(ANY_ENCODER, str(file)) for file in text_encoders]
        own_vae = None if vae is None else str(vae)
        source = identify(str(name), own_vae, offline=offline, text_encoders=given, version=model_version)
        defaults = source.defaults
        return ModelFacts(
            name=str(name),
            family=source.family.name,
            label=source.family.label,
            process=source.family.process,
            native_size=source.native_size,
            prediction_type=source.prediction_type,
            encoders=tuple(spec.file_key for spec in source.encoder_specs),
            defaults={own.name: getattr(defaults, own.name).value for own in fields(defaults)},
        )


def pieces(text: str, model: str | Path, offline: bool = False) -> dict[str, list[str]]:
    """Return the pieces of the vocabulary that each text encoder of a model reads in a text, by the encoder's name.

    The vectors of a new word start from the pieces of its init word. Raises ModelError for the model.
    """
    with python_wording():
        tokenizers = load_tokenizers(identify(str(model), offline=offline))
    return {name: own.spelled([own.ids_of(text)])[0] for name, own in tokenizers.items()}
