"""The metadata of a run's embedding files, and the settings that decide its result."""

from __future__ import annotations

import base64
import hashlib
import json
import mimetypes
from pathlib import Path

from neonym._version import __version__
from neonym.config.optimizers import optimizer_name
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from neonym.config.values import as_written
from neonym.errors import UserError
from neonym.models.family import chosen
from neonym.models.source import ModelSource
from neonym.preflight.plan import TrainingPlan

# settings by section (True: all of it); images, captions and initial rows have fingerprints of their own
WITHOUT_EFFECT_ON_RESULT = {
    "save": True,
    "cache": True,
    "metadata": True,
    "sample": True,
    "log": True,
    "hub": True,
    "model": {"offline", "v2", "sdxl"},
    "compute": {
        "ddp_timeout",
        "deterministic",
        "xformers",
        "sdpa",
        "mem_eff_attn",
        "fit",
        "blocks_to_swap",
        "cache_text_encoder_outputs",
        "lanes",
        "micro_batch_size",
        "cuda_graphs",
        "gradient_checkpointing",
    },
    "dataset": {"dataset_config", "train_data_dir", "reg_data_dir", "in_json", "broken_images", "template_file"},
    "optim": {"max_train_time"},
    "concept": {"weights"},
}
LOCATIONS = {
    "pretrained_model_name_or_path",
    "dataset_config",
    "train_data_dir",
    "reg_data_dir",
    "in_json",
    "template_file",
    "offline",  # where a model comes from, not which one it is
}
DATASET_LOCATIONS = ("image_dir", "metadata_file", "conditioning_data_dir")
RECIPE_SECTIONS = ("model", "dataset", "optim", "objective", "eval")  # the sections of a recipe
# other settings of a recipe: they decide the numbers on any machine
PRECISION_SETTINGS = (
    "mixed_precision",
    "base_precision",
    "encoder_precision",
    "save_precision",
)


def deciding_settings(run: RunConfig) -> dict[str, str]:
    """Return every setting that decides the result, as text."""
    unused = set() if run.eval.early_stop else {"eval_every_n_steps"}
    tree = run.model_dump(exclude={**WITHOUT_EFFECT_ON_RESULT, "eval": unused})
    return {name: str(value) for section in tree.values() for name, value in section.items()}


def model_use_metadata(run: RunConfig) -> dict[str, str]:
    """Return the metadata of a limited timestep range and of CLIP skip, where they were set."""
    facts, low, high = {}, run.objective.min_timestep, run.objective.max_timestep
    if low is not None or high is not None:
        facts["modelspec.timestep_range"] = f"{low or 0},{1000 if high is None else high}"
    if run.model.clip_skip > 1 or "clip_skip" in run.model.model_fields_set:
        facts["modelspec.encoder_layer"] = str(run.model.clip_skip)
    return facts


def prediction_metadata(source: ModelSource) -> dict[str, str]:
    """Return the metadata of what the model predicts; nothing if modelspec has no name for it, as for a flow."""
    name = source.family.prediction_names.get(source.prediction_type)
    return {} if name is None else {"modelspec.prediction_type": name}


def version_metadata(source: ModelSource) -> dict[str, str]:
    """Return the metadata of which of several models of the same shapes a model is taken for, if there are several."""
    version = chosen(source.configs)
    return {} if version is None else {"neonym.model_version": version}


def dataset_metadata(plan: TrainingPlan) -> dict[str, str]:
    """Return the metadata of a dataset file: its tables as JSON, without default values and without parent folders."""
    if not plan.run.dataset.dataset_config:
        return {}
    tables = plan.data.model_dump(mode="json", include={"datasets"}, exclude_defaults=True)["datasets"]
    for subset in (subset for table in tables for subset in table["subsets"]):
        subset.pop("custom_attributes", None)
        subset |= {name: Path(subset[name]).name for name in DATASET_LOCATIONS if name in subset}
    return {"neonym.datasets": json.dumps(tables, sort_keys=True)}


def as_data_url(text: str) -> str:
    """Return an image file as a data URL; a URL stays as it is. Raises UserError if the file cannot be read."""
    if ":" in text.partition("/")[0] and not Path(text).is_file():
        return text
    kind = mimetypes.guess_type(text)[0] or "image/jpeg"
    try:
        return f"data:{kind};base64,{base64.b64encode(Path(text).read_bytes()).decode()}"
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", f"--metadata_thumbnail {text}") from error


def recipe_settings(run: RunConfig) -> dict[str, object]:
    """Return the settings that differ from their defaults and can be reused elsewhere: no paths, names or keys."""
    found = {}
    for section, name, field in fields_of(RunConfig):
        value, is_recorded = getattr(getattr(run, section), name), section in RECIPE_SECTIONS and name not in LOCATIONS
        if (is_recorded or name in PRECISION_SETTINGS) and value != field.default:
            found[name] = as_written(value)
    return found


def user_metadata(run: RunConfig) -> dict[str, str]:
    """Return the metadata that the user set, with a thumbnail as a data URL. Raises UserError."""
    given = run.metadata.model_dump(exclude_none=True)
    found = {name.replace("metadata_", "modelspec.", 1): text for name, text in given.items()}
    if "modelspec.thumbnail" in found:
        found["modelspec.thumbnail"] = as_data_url(found["modelspec.thumbnail"])
    return found


def settings_metadata(run: RunConfig) -> dict[str, str]:
    """Return the metadata of the learning rate and of all settings together."""
    settings = json.dumps(deciding_settings(run), sort_keys=True)
    return {
        "neonym.learning_rate": str(run.optim.learning_rate),
        "neonym.settings_digest": hashlib.sha256(settings.encode()).hexdigest(),
        "neonym.settings": json.dumps(recipe_settings(run), sort_keys=True),
    }


def run_metadata(plan: TrainingPlan) -> dict[str, str]:
    """Return the metadata that all embedding files of a run share."""
    source = plan.source
    width, height = plan.datasets[0].buckets.resolution
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{source.family.architecture(source.prediction_type)}/textual-inversion",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.implementation_version": f"neonym/{__version__}",
        "modelspec.resolution": f"{width}x{height}",
        **prediction_metadata(source),
        **model_use_metadata(plan.run),
        "neonym.version": __version__,
        "neonym.base_model": source.name,
        "neonym.base_model_hash": source.text_hash(),
        "neonym.family": source.family.name,
        **version_metadata(source),
        "neonym.clip_skip": str(plan.run.model.clip_skip),
        "neonym.seed": str(plan.run.optim.seed),
        "neonym.optimizer": optimizer_name(plan.run.optim.optimizer_type),
        **settings_metadata(plan.run),
        **dataset_metadata(plan),
    }
