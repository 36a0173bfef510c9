"""Find the family that a model belongs to by its configs.

This module does not need torch: the networks of a family are imported with the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from neonym.errors import ModelError, Problem
from neonym.models.defaults import PUBLISHED_SPREAD, is_count
from neonym.models.family import BY_USER, Configs, Family, Recognised, chosen
from neonym.models.loading.refusals import refuse_version
from neonym.models.loading.weight_files import read_header
from neonym.models.registry import families, supported
from neonym.models.signatures import BY_USER as BY_VERSION
from neonym.models.signatures import Choice, assume, origin_of
from neonym.models.source import ModelSource


def source_of(name: str, folder: Path, configs: Configs, version: str | None = None) -> ModelSource:
    """Return the source of a model, with the first family that recognises it.

    `version` says which of several models of the same shapes it is, if the configs do not. Raises ModelError if no family
    recognises it, or if there is no such version.
    """
    for family in families():
        try:
            facts = family.recognise(configs, name)
            if facts is None:
                continue
            if version is not None and (choices := family.versions(configs)):
                configs = with_version(configs, family, choices, name, version)
                facts = family.recognise(configs, name) or facts
            facts = replace(facts, native_size=own_size(configs, facts.native_size))
            source = ModelSource(
                name=name,
                folder=folder,
                family=family,
                configs=configs,
                facts=facts,
                guidance=usual_guidance(family, facts, configs),
                word_spread=spread_in_config(configs),
                version=version,
            )
            _ = source.defaults  # raises ValueError for invalid settings in a neonym.json
        except (TypeError, ValueError) as error:
            raise ModelError(f"its configs are invalid ({error})", name, "Download them again") from error
        if "scheduler" not in configs:
            raise ModelError("scheduler/scheduler_config.json is missing", name, "Is the folder complete?")
        schedule = str(configs["scheduler"].get("_class_name", ""))
        if schedule.startswith(family.other_schedules):
            fix = f"Words can be learned for {supported()}"
            raise ModelError(f"was made for another noise schedule ({schedule})", name, fix)
        return source
    kind = str(configs.get("model_index", {}).get("_class_name") or "a model without a name")
    what = f"is a {kind}, which is not supported (supported: text-to-image {supported()})"
    raise ModelError(what, name)


def with_version(
    configs: Configs, family: Family, choices: tuple[Choice, ...], name: str, version: str
) -> Configs:  # fmt: skip
    """Return the configs with which of the choices a model is, as the user says. Raises ModelError if none is."""
    if chosen(configs) is not None:  # a file, for which this is known
        return configs
    assumed = assume(choices, {}, "", version)
    refuse_version(version, assumed, family.label, name)
    return {**configs, "origin": origin_of(assumed)}


def own_size(configs: Configs, usual: int) -> int:
    """Return the side in pixels that a model was trained for, from its neonym.json; `usual` if that does not say.

    Raises ValueError if it is not a number of pixels.
    """
    side = configs.get("neonym", {}).get("native_size", usual)
    if not is_count(side, 1):
        raise ValueError(f"neonym.json: `native_size` cannot be {side!r}")
    return side


def usual_guidance(family: Family, facts: Recognised, configs: Configs) -> float:
    """Return the guidance scale that suits a model: that of its neonym.json, its own, or its family's.

    Raises ValueError or TypeError if the one in the neonym.json is not a number.
    """
    usual = family.guidance if facts.guidance is None else facts.guidance
    return float(configs.get("neonym", {}).get("guidance", usual))


def spread_in_config(configs: Configs) -> float:
    """Return the vocabulary's spread from the model's neonym.json, or CLIP ViT-L's. Raises ValueError if invalid."""
    spread = float(configs.get("neonym", {}).get("word_spread", PUBLISHED_SPREAD))
    if not 0 < spread < float("inf"):
        raise ValueError(f"neonym.json: `word_spread` cannot be {spread}")
    return spread


def with_user_prediction(configs: Configs, v_parameterization: bool | None) -> Configs:
    """Return the configs with the user's prediction type, unless the scheduler's config has one."""
    scheduler = configs.get("scheduler", {})
    if v_parameterization and "prediction_type" not in scheduler:
        return {
            **configs,
            "scheduler": {**scheduler, "prediction_type": "v_prediction"},
            "origin": {"prediction": BY_USER},
        }
    return configs


def source_notes(source: ModelSource) -> Iterator[Problem]:
    """Yield problems of a model that does not record its prediction type or version, and of a variant requested of a file."""
    if source.variant is not None and source.file is not None:
        yield Problem(
            "warning", "a checkpoint file has no variants, so this has no effect", f"--variant {source.variant}"
        )
    for spec in source.family.encoders:
        if spec.name not in source.encoders:
            what = f"the model has no {spec.name} ({spec.file_key}): a word gets no vectors for it, and zeros replace its states"
            yield Problem("note", what, source.name)
    yield from version_notes(source)
    yield from doubtful_vae(source)
    unrecorded = "the model does not record whether it predicts noise or v"
    if source.prediction_from == BY_USER:
        yield Problem("note", f"{unrecorded}: v is used, as --v_parameterization says", source.name)
    if source.family.prediction_varies and not source.prediction_from:
        fix = "If it is a 768-v model, add --v_parameterization"
        yield Problem("warning", f"{unrecorded}: noise is assumed", source.name, fix)


def version_notes(source: ModelSource) -> Iterator[Problem]:
    """Yield a note about which of several models of the same shapes a model is taken for, and how to overrule that."""
    if reason := source.configs.get("origin", {}).get("reason"):
        told = source.configs["origin"]
        others = told["others"]
        what = f"it is taken for {told['choice']}, {reason}; {' and '.join(others)} have the same weights by shape"
        fix = "" if reason == BY_VERSION else f"If it is another one, say so with --model_version {' or '.join(others)}"
        yield Problem("note", what, source.name, fix)
    elif source.version is not None:
        what = f"has no effect: the files of this model ({source.family.label}) say which version it is"
        yield Problem("warning", what, f"--model_version {source.version}")


def doubtful_vae(source: ModelSource) -> Iterator[Problem]:
    """Yield a warning if the separate VAE is called that of another family, which has the same shapes but other scales."""
    layout, label = source.family.files, source.family.label
    if source.vae is None or not source.vae.is_file() or layout is None or not layout.vae_words:
        return
    others = {
        own.files.vae_words: own.label for own in reversed(families()) if own.files and own.files.vae == layout.vae
    }
    choices = [Choice(other, words) for words, other in others.items() if words != layout.vae_words]
    own = Choice(label, layout.vae_words)
    assumed = assume((own, *choices), read_header(source.vae).metadata, source.vae.name)
    if assumed.choice is not own:
        what = (
            f"is taken for the VAE of {label}, but {assumed.reason} it is that of {assumed.choice.name}, whose weights "
            f"have the same shapes and whose latents have another scale"
        )
        yield Problem("warning", what, f"--vae {source.vae}", f"Use the VAE of {label}, such as {layout.vae_example}")
