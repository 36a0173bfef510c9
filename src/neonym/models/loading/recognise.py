"""Find the family that a model belongs to by its configs.

This module does not need torch: the networks of a family are imported with the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from neonym.errors import ModelError, Problem
from neonym.models.defaults import PUBLISHED_SPREAD, is_count
from neonym.models.family import BY_USER, Configs, Family, Recognised
from neonym.models.registry import families, supported
from neonym.models.source import ModelSource


def source_of(name: str, folder: Path, configs: Configs) -> ModelSource:
    """Return the source of a model, with the first family that recognises it. Raises ModelError if none does."""
    for family in families():
        try:
            facts = family.recognise(configs, name)
            if facts is None:
                continue
            facts = replace(facts, native_size=own_size(configs, facts.native_size))
            source = ModelSource(
                name=name,
                folder=folder,
                family=family,
                configs=configs,
                facts=facts,
                guidance=usual_guidance(family, facts, configs),
                word_spread=spread_in_config(configs),
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
    """Yield problems of a model that does not record its prediction type, and of a variant requested of a file."""
    if source.variant is not None and source.file is not None:
        yield Problem(
            "warning", "a checkpoint file has no variants, so this has no effect", f"--variant {source.variant}"
        )
    for spec in source.family.encoders:
        if spec.name not in source.encoders:
            what = f"the model has no {spec.name} ({spec.file_key}): a word gets no vectors for it, and zeros replace its states"
            yield Problem("note", what, source.name)
    if reason := source.configs.get("origin", {}).get("reason"):
        told = source.configs["origin"]
        what = (
            f"it is taken for {told['choice']}, {reason}; {' and '.join(told['others'])} have the same weights by shape"
        )
        yield Problem("note", what, source.name, "If it is another one, say so in the name of the file")
    unrecorded = "the model does not record whether it predicts noise or v"
    if source.prediction_from == BY_USER:
        yield Problem("note", f"{unrecorded}: v is used, as --v_parameterization says", source.name)
    if source.family.prediction_varies and not source.prediction_from:
        fix = "If it is a 768-v model, add --v_parameterization"
        yield Problem("warning", f"{unrecorded}: noise is assumed", source.name, fix)
