"""The settings that the user leaves to the model, filled in once the model is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neonym.config.dataset import ConceptSpec, DatasetConfig
from neonym.config.learning_settings import ObjectiveSettings
from neonym.config.run import RunConfig
from neonym.config.values import Rate
from neonym.errors import Problem
from neonym.models.defaults import Default
from neonym.models.source import ModelSource
from neonym.optim.optimizers import record_of
from neonym.optim.rates import suitable_rate, warms_up

UsedDefaults = dict[str, Default]  # setting that the user did not give -> its default
LONG_RUN = 1000  # steps: the user of a longer run should know how to end it sooner


def with_defaults(run: RunConfig, source: ModelSource) -> tuple[RunConfig, UsedDefaults]:
    """Return the run with the settings that the model decides, and the defaults that are used.

    Some settings stay open: the warm-up depends on the length of the run (`rates.default_warmup`), the precision and
    the micro-batches depend on the device, and the interval of the files in the run folder has no setting.
    """
    defaults, optim, save = source.defaults, run.optim, run.save
    used: UsedDefaults = {}
    if optim.learning_rate is None:
        first = source.encoders_named(run.concept.train_encoders)[:1] or source.encoders
        used["learning_rate"] = rate_default(source, optim.optimizer_type, first[0])
    if optim.max_train_steps is None and optim.max_train_epochs is None:
        used["max_train_steps"] = defaults.max_train_steps
    if optim.lr_warmup_steps is None and warms_up(optim):
        used["lr_warmup_steps"] = defaults.lr_warmup_steps
    if run.dataset.train_batch_size is None:
        used["train_batch_size"] = defaults.train_batch_size
    if run.concept.num_vectors_per_token is None:
        used["num_vectors_per_token"] = defaults.num_vectors_per_token
    if not (save.save_every_n_steps or save.save_every_n_epochs or save.save_n_epoch_ratio):
        used["save_every_n_steps"] = defaults.save_every_n_steps
    if run.eval.early_stop and not run.eval.eval_every_n_steps:
        used["eval_every_n_steps"] = defaults.eval_every_n_steps
    if run.compute.mixed_precision == "auto":
        used["mixed_precision"] = defaults.mixed_precision
    if source.family.process == "flow":
        used |= flow_defaults(run.objective, source)
    values = {name: default.value for name, default in used.items() if name not in LEFT_OPEN}
    if "learning_rate" in values:
        values["learning_rate"] = Rate.constant(values["learning_rate"])
    return with_settings(run, values), used


LEFT_OPEN = ("lr_warmup_steps", "save_every_n_steps", "mixed_precision")


def rate_default(source: ModelSource, optimizer: str, encoder: str) -> Default:
    """Return the default learning rate for a model and an optimizer; `encoder` is the first that is trained."""
    if record_of(optimizer).finds_rate:
        return Default(
            suitable_rate(source, optimizer), "it finds the rate itself, and multiplies it by this factor", optimizer
        )
    return source.defaults_for(encoder).learning_rate


def flow_defaults(objective: ObjectiveSettings, source: ModelSource) -> UsedDefaults:
    """Return the defaults of how sigma is drawn that are used: the distribution, and its shift if that is a number."""
    flow, used = source.flow, UsedDefaults()
    sampling = objective.timestep_sampling or flow.sampling
    if objective.timestep_sampling is None:
        used["timestep_sampling"] = Default(sampling, flow.source, source.family.label)
    has_number = sampling in ("sigma", "shift") or (sampling == "logit_normal" and flow.line is None)
    if objective.discrete_flow_shift is None and has_number:
        used["discrete_flow_shift"] = Default(flow.shift, flow.source, source.family.label)
    return used


def with_settings(run: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return the run with the settings in `values` replaced, each in its section."""
    changed = {}
    for section in type(run).model_fields:
        settings = getattr(run, section)
        own = {name: value for name, value in values.items() if name in type(settings).model_fields}
        if own:
            changed[section] = settings.model_copy(update=own)
    return run.model_copy(update=changed)


def with_table_defaults(
    config: DatasetConfig, run: RunConfig, used: UsedDefaults, counts: Mapping[str, int]
) -> tuple[DatasetConfig, UsedDefaults]:
    """Return the dataset tables with the values that they leave to the run, and the defaults that are then still used.

    `counts` has the number of vectors in the `--weights` file of each word that has one.
    """
    vectors, batch_size = run.concept.num_vectors_per_token, run.dataset.train_batch_size
    concepts = tuple(with_default_vector_count(c, counts.get(c.token_string, vectors)) for c in config.concepts)
    datasets = tuple(d.model_copy(update={"batch_size": d.batch_size or batch_size}) for d in config.datasets)
    decided = {  # whether tables and files decide the setting everywhere
        "num_vectors_per_token": all(c.num_vectors_per_token or c.token_string in counts for c in config.concepts),
        "train_batch_size": all(d.batch_size for d in config.datasets),
    }
    left = {name: default for name, default in used.items() if not decided.get(name)}
    return config.model_copy(update={"concepts": concepts, "datasets": datasets}), left


def with_default_vector_count(spec: ConceptSpec, count: int | None) -> ConceptSpec:
    """Return the concept with `count` vectors, unless it sets a number itself; `model_fields_set` does not change."""
    values = {**spec.model_dump(), "num_vectors_per_token": spec.num_vectors_per_token or count}
    return ConceptSpec.model_construct(spec.model_fields_set, **values).with_settings(spec.settings)


def default_notes(used: UsedDefaults, folder: Path, stops_early: bool) -> list[Problem]:
    """Return a note on how to end a long run sooner, if the user did not choose its length."""
    steps, kept = used.get("max_train_steps"), used.get("save_every_n_steps")
    if steps is None or steps.value < LONG_RUN:
        return []
    files = f"; a file is kept every {kept.value} steps in {folder}" if kept and kept.value else ""
    fix = "" if stops_early else "--early_stop ends the run when the loss stops changing"
    return [Problem("note", f"{steps.value}, the {steps}{files}", "--max_train_steps", fix)]
