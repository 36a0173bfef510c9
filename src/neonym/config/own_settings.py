"""The settings that a word may have of its own: keys of `[[concepts]]` that take precedence over those of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from neonym.config.flags import flag_fields
from neonym.config.flat import Sink, coerced, validated
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from neonym.errors import Problem

SECTIONS = ("optim", "save", "sample", "metadata", "eval")
OF_THE_RUN = (  # settings of these sections that a run has once; the learning rate has a key of its own
    "learning_rate", "max_train_time", "output_dir", "output_name", "save_model_as", "resume", "restart",
    "sample_prompts", "metadata_thumbnail", "validation_split", "validation_seed",
)  # fmt: skip
OWN_SETTINGS = tuple(
    name for section, name, _ in fields_of(RunConfig) if section in SECTIONS and name not in OF_THE_RUN
)


def own_settings(row: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[Problem]]:
    """Return the own settings in a row of `[[concepts]]` as the schema holds them, and what is wrong with the others."""
    given = {name: value for name, value in row.items() if name in OWN_SETTINGS}
    sink = Sink(origins=dict.fromkeys(given, where))
    values = coerced(given, flag_fields(RunConfig), where, sink)
    run = validated(RunConfig, values, sink)
    wrong = [replace(problem, where=placed(problem.where, where)) for problem in sink.problems]
    tree = {name: getattr(getattr(run, section), name) for section, name, _ in fields_of(RunConfig) if name in values}
    return tree, wrong


def placed(name: str, where: str) -> str:
    """Return the place of a setting in a table, whether or not its `name` says where it is."""
    return f"{where}, `{name[2:]}`" if name.startswith("--") else name
