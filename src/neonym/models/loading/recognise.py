"""Which family a model belongs to, by its configs. Needs no torch: a family's networks are imported with its weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from neonym.errors import ModelError, Problem
from neonym.models.defaults import PUBLISHED_SPREAD
from neonym.models.family import BY_USER, Configs
from neonym.models.registry import families, supported
from neonym.models.source import ModelSource


def recognised(name: str, folder: Path, configs: Configs) -> ModelSource:
    """Return the model as the first family that recognises it says. Raises ModelError."""
    for family in families():
        try:
            facts = family.recognise(configs, name)
            if facts is None:
                continue
            source = ModelSource(
                name=name,
                folder=folder,
                family=family,
                configs=configs,
                facts=facts,
                guidance=float(configs.get("neonym", {}).get("guidance", family.guidance)),
                word_spread=spread_in_config(configs),
            )
            _ = source.defaults  # a neonym.json may say what no setting can be
        except (TypeError, ValueError) as error:
            raise ModelError(f"its configs are odd ({error})", name, "Fetch them again") from error
        if "scheduler" not in configs:
            raise ModelError("scheduler/scheduler_config.json is missing", name, "Is the folder complete?")
        schedule = str(configs["scheduler"].get("_class_name", ""))
        if schedule.startswith(family.other_schedules):
            fix = f"Words can be learned for {supported()}"
            raise ModelError(f"was made for another noise schedule ({schedule})", name, fix)
        return source
    kind = str(configs.get("model_index", {}).get("_class_name") or "a model without a name")
    what = f"is a {kind}, of no family that is supported yet (text-to-image {supported()} are)"
    raise ModelError(what, name)


def spread_in_config(configs: Configs) -> float:
    """Return the spread of the vocabulary that the model's neonym.json says, CLIP ViT-L's otherwise. Raises ValueError."""
    spread = float(configs.get("neonym", {}).get("word_spread", PUBLISHED_SPREAD))
    if not 0 < spread < float("inf"):
        raise ValueError(f"neonym.json: `word_spread` cannot be {spread}")
    return spread


def with_user_prediction(configs: Configs, v_parameterization: bool | None) -> Configs:
    """Return the configs; where the scheduler's does not say what is predicted, what the user says."""
    scheduler = configs.get("scheduler", {})
    if v_parameterization and "prediction_type" not in scheduler:
        return {
            **configs,
            "scheduler": {**scheduler, "prediction_type": "v_prediction"},
            "said": {"prediction": BY_USER},
        }
    return configs


def source_notes(source: ModelSource) -> Iterator[Problem]:
    """Yield notes on a model that does not say itself whether it predicts noise or v, and on a variant of a file."""
    if source.variant is not None and source.file is not None:
        yield Problem("warning", "a checkpoint file has no variants: it has no effect", f"--variant {source.variant}")
    silent = "it does not say whether it predicts noise or v"
    if source.prediction_from == BY_USER:
        yield Problem("note", f"{silent}: v, as --v_parameterization says", source.name)
    if source.family.prediction_varies and not source.prediction_from:
        fix = "If it is a 768-v model, give --v_parameterization"
        yield Problem("warning", f"{silent}; it is taken to predict noise", source.name, fix)
