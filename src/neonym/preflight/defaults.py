"""The settings that the user left to the model, filled in once the model is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neonym.config.dataset import ConceptSpec, DatasetConfig
from neonym.config.run import RunConfig
from neonym.config.values import Rate
from neonym.errors import Problem
from neonym.models.defaults import Default
from neonym.models.source import ModelSource
from neonym.optim.optimizers import record_of
from neonym.optim.rates import suitable_rate, warms_up

Used = dict[str, Default]  # setting -> its default, of those that the user did not give
LONG_RUN = 1000  # steps: a run that takes a while, of which the user should know how it can end sooner


def with_defaults(run: RunConfig, source: ModelSource) -> tuple[RunConfig, Used]:
    """Return the run with every setting that the model decides, and the defaults that were used.

    The warm-up stays open, because it depends on the length of the run (`rates.default_warmup`); so do the precision and
    the micro-batches, which depend on the device, and the interval of the files in the run's folder, which has no setting.
    """
    defaults, optim, save = source.defaults, run.optim, run.save
    used: Used = {}
    if optim.learning_rate is None:
        used["learning_rate"] = rate_default(source, optim.optimizer_type)
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
    if run.compute.mixed_precision is None:
        used["mixed_precision"] = defaults.mixed_precision
    values = {name: default.value for name, default in used.items() if name not in LEFT_OPEN}
    if "learning_rate" in values:
        values["learning_rate"] = Rate.constant(values["learning_rate"])
    return filled(run, values), used


LEFT_OPEN = ("lr_warmup_steps", "save_every_n_steps", "mixed_precision")


def rate_default(source: ModelSource, optimizer: str) -> Default:
    """Return the learning rate that suits the model's words and the optimizer."""
    if record_of(optimizer).finds_rate:
        return Default(suitable_rate(source, optimizer), "it finds the rate itself: this is a factor", optimizer)
    return source.defaults.learning_rate


def filled(run: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return the run with these settings, each in its section."""
    changed = {}
    for section in type(run).model_fields:
        settings = getattr(run, section)
        own = {name: value for name, value in values.items() if name in type(settings).model_fields}
        if own:
            changed[section] = settings.model_copy(update=own)
    return run.model_copy(update=changed)


def with_table_defaults(
    config: DatasetConfig, run: RunConfig, used: Used, counts: Mapping[str, int]
) -> tuple[DatasetConfig, Used]:
    """Return the data set's tables with what they leave to the run, and the defaults that are then still used.

    `counts`: how many vectors the `--weights` file of a word has, by word.
    """
    vectors, batch_size = run.concept.num_vectors_per_token, run.dataset.train_batch_size
    concepts = tuple(with_vectors(c, counts.get(c.token_string, vectors)) for c in config.concepts)
    datasets = tuple(d.model_copy(update={"batch_size": d.batch_size or batch_size}) for d in config.datasets)
    decided = {  # whether the tables or the files decide it, everywhere
        "num_vectors_per_token": all(c.num_vectors_per_token or c.token_string in counts for c in config.concepts),
        "train_batch_size": all(d.batch_size for d in config.datasets),
    }
    left = {name: default for name, default in used.items() if not decided.get(name)}
    return config.model_copy(update={"concepts": concepts, "datasets": datasets}), left


def with_vectors(spec: ConceptSpec, count: int | None) -> ConceptSpec:
    """Return the word with this many vectors unless it has a number of its own; its `model_fields_set` stays."""
    values = {**spec.model_dump(), "num_vectors_per_token": spec.num_vectors_per_token or count}
    return ConceptSpec.model_construct(spec.model_fields_set, **values)


def default_notes(used: Used, folder: Path, stops_early: bool) -> list[Problem]:
    """Return what the user of a long run should know who did not choose its length."""
    steps, kept = used.get("max_train_steps"), used.get("save_every_n_steps")
    if steps is None or steps.value < LONG_RUN:
        return []
    files = f"; a file is kept every {kept.value} steps in {folder}" if kept and kept.value else ""
    fix = "" if stops_early else "--early_stop ends the run when the loss stops changing"
    return [Problem("note", f"{steps.value}, the {steps}{files}", "--max_train_steps", fix)]
