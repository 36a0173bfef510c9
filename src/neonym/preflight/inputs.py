"""Read what the settings of a run name: the dataset file, prompts and folders, but no images, and without torch.

All mistakes in the settings are therefore reported together, within a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from neonym.config.data_settings import ModelSettings
from neonym.config.file_kinds import misplaced
from neonym.config.resolve import Resolved, read_table
from neonym.config.rules import run_problems
from neonym.config.run import RunConfig
from neonym.config.sources import read_dataset
from neonym.errors import ConfigError, Problem
from neonym.generation.request.prompts import SamplePrompt
from neonym.models.source import BUILTIN_MODELS
from neonym.preflight.resume_paths import resume_problem
from neonym.preflight.sample_prompts import sample_prompts
from neonym.runs.outputs import output_problems


@dataclass(frozen=True)
class Inputs:
    """Everything that the settings name, as far as it can be read, and all problems with it."""

    data: Resolved
    prompts: tuple[SamplePrompt, ...]
    problems: tuple[Problem, ...]
    settings_are_valid: bool  # whether each setting is correct by itself


def read_inputs(run: RunConfig) -> Inputs:
    """Return what the settings name. No images and no model are read."""
    rules = run_problems(run)
    data = read_dataset(run, rules)
    concepts = data.config.concepts if data.config else ()
    named = [c.token_string for c in concepts] or [run.concept.token_string or ""]
    words = [word for word in named if word.strip()]
    wrong = misplaced(run.sample.sample_prompts, "sample_prompts")
    prompts, found = ([], [wrong]) if wrong else sample_prompts(run.sample, words)
    found += misplaced_files(run, [concept.weights for concept in concepts])
    found += output_problems(run, words, [prompt.seed for prompt in prompts])
    found += [*path_problems(run), *model_path_problems(run.model)]
    is_valid = not any(problem.severity == "error" for problem in rules)
    return Inputs(data, tuple(prompts), (*data.problems, *found), is_valid)


def declares_v_prediction(model: ModelSettings) -> bool | None:
    """Return whether the model predicts v, by the config in its folder or by the settings; None if neither tells."""
    name = model.pretrained_model_name_or_path
    folder = BUILTIN_MODELS / name.removeprefix("builtin:") if name.startswith("builtin:") else Path(name)
    try:
        config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text("utf-8"))
        return config["prediction_type"] == "v_prediction"
    except (OSError, ValueError, KeyError, TypeError):
        return True if model.v_parameterization else None


def misplaced_files(run: RunConfig, weights: Sequence[str | None]) -> Iterator[Problem]:
    """Yield an error for each file that its flag does not accept. `weights` are the embedding files of the words."""
    given = [("weights", file) for file in weights or [run.concept.weights]]
    for flag, file in dict.fromkeys([*given, ("template_file", run.dataset.template_file), ("vae", run.model.vae)]):
        if wrong := misplaced(file, flag):
            yield wrong
        elif flag == "weights" and file and file == run.concept.weights and not Path(file).is_file():
            yield Problem("error", "there is no such file", f"--weights {file}")


def model_path_problems(model: ModelSettings) -> Iterator[Problem]:
    """Yield an error if the model is a path that does not exist, or a file of another kind."""
    name = model.pretrained_model_name_or_path
    if wrong := misplaced(name, "pretrained_model_name_or_path"):
        yield wrong
    like_a_path = name.startswith((".", "/", "~")) or name.lower().endswith((".safetensors", ".ckpt"))
    if like_a_path and not Path(name).exists():
        fix = "Write a path without ~" if name.startswith("~") else "Check the path"
        yield Problem("error", f"{name} does not exist", "--pretrained_model_name_or_path", fix)


def path_problems(run: RunConfig) -> Iterator[Problem]:
    """Yield an error for each file or folder in the settings that does not exist or cannot be used."""
    save, log = run.save, run.log
    if save.resume is not None and not run.hub.resume_from_huggingface and (wrong := resume_problem(save.resume)):
        yield wrong
    thumbnail = run.metadata.metadata_thumbnail
    if thumbnail and ":" not in thumbnail.partition("/")[0] and not Path(thumbnail).is_file():
        yield Problem("error", "there is no such file", f"--metadata_thumbnail {thumbnail}")
    if log.log_tracker_config:
        yield from tracker_file_problems(log.log_tracker_config)


def tracker_file_problems(file: str) -> Sequence[Problem]:
    """Return what is wrong with the file of `--log_tracker_config`, which must have a table for each tracker."""
    try:
        table = read_table(Path(file))
    except ConfigError as error:
        return [Problem("error", p.what, f"--log_tracker_config {p.where}") for p in error.problems]
    if isinstance(table, dict) and all(isinstance(value, dict) for value in table.values()):
        return []
    fix = 'For example, write [wandb] and, on the next line, name = "first"'
    return [
        Problem("error", "must have a table for each tracker, and nothing else", f"--log_tracker_config {file}", fix)
    ]
