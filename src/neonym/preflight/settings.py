"""Checks the settings against the model, and collects notes on settings that are replaced."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator

from neonym.config.data_settings import ModelSettings
from neonym.config.optimizers import optimizer_name
from neonym.config.run import RunConfig
from neonym.errors import Problem, nearest
from neonym.models.loading.recognise import source_notes
from neonym.models.registry import families
from neonym.models.source import ModelSource
from neonym.optim.optimizers import record_of
from neonym.preflight.memory import without_rows


def unsuitable_settings(run: RunConfig, source: ModelSource) -> list[Problem]:
    """Return a problem for each setting that does not suit the model."""
    problems = []
    if source.family.no_clip_skip and run.model.clip_skip > 1:
        problems.append(
            Problem("error", f"{source.family.no_clip_skip}, so no layer can be skipped", "--clip_skip", "Leave it out")
        )
    elif run.model.clip_skip > source.text_layers:
        what = f"the model has {source.text_layers} text layers, not {run.model.clip_skip}"
        problems.append(Problem("error", what, "--clip_skip", f"Use at most {source.text_layers}"))
    if run.model.tokenize_as != "mix" and not source.differs_in_comfyui:
        what = f"has no effect: ComfyUI and diffusers make the same ids of captions for {source.family.label}"
        problems.append(Problem("warning", what, "--tokenize_as"))
    if run.dataset.weighted_captions and all(own.layout.brackets == "text" for own in source.family.encoders):
        what = f"has no effect: {source.family.label} reads a caption as a chat turn, in which brackets are text"
        problems.append(Problem("warning", what, "--weighted_captions"))
    problems += encoder_problems(run, source)
    if source.family.clip_skip_note and run.model.clip_skip > 1:
        what, fix = source.family.clip_skip_note
        problems.append(Problem("warning", what, "--clip_skip", fix))
    if run.compute.blocks_to_swap and not source.family.denoiser.blocks:
        what = f"has no effect on {source.family.label}, whose U-Net is not made of equal blocks"
        problems.append(
            Problem("warning", what, "--blocks_to_swap", "Use --base_precision or --gradient_checkpointing")
        )
    if run.compute.cache_text_encoder_outputs and not without_rows(run, source):
        what = "has no effect: the model has no T5 without learned rows"
        problems.append(Problem("warning", what, "--cache_text_encoder_outputs"))
    if run.compute.torch_compile:
        problems += compile_problems(run.compute.dynamo_backend)
    return [*problems, *model_flag_problems(run.model, source), *source_notes(source)]


def encoder_problems(run: RunConfig, source: ModelSource) -> Iterator[Problem]:
    """Yield an error for each setting of single text encoders that the model does not have or that cannot be."""
    rates, trained = run.optim.encoder_learning_rates.values, source.encoders_named(run.concept.train_encoders)
    named = {"train_encoders": run.concept.train_encoders, "encoder_learning_rates": tuple(rates)}
    for setting, names in named.items():
        unknown = [name for name in names if source.family.encoder_named(name) is None]
        if unknown:
            has = ", ".join(f"{spec.name} ({spec.file_key})" for spec in source.family.encoders)
            yield Problem("error", f"the model has no {', '.join(unknown)}", f"--{setting}", f"It has {has}")
    for name, rate in rates.items():
        where = f"--encoder_learning_rates {name}"
        if type(rate) not in (int, float) or not 0 < rate < math.inf:
            yield Problem("error", f"{rate!r} is not a rate above 0", where)
        elif source.family.encoder_named(name) in set(source.encoders) - set(trained):
            yield Problem("warning", "has no effect: --train_encoders leaves this encoder out", where)
    record = record_of(run.optim.optimizer_type)
    if rates and (record.finds_rate or record.is_relative(run.optim.optimizer_arguments)):
        what = f"{optimizer_name(run.optim.optimizer_type)} finds one rate for all encoders"
        yield Problem("error", what, "--encoder_learning_rates", "Leave them out, or choose another --optimizer_type")


def model_flag_problems(model: ModelSettings, source: ModelSource) -> list[Problem]:
    """Return a problem for each flag that contradicts what the model is recognised as."""
    problems = []
    for flag, family in ((family.flag, family) for family in families() if family.flag):
        if getattr(model, flag, False) and source.family.name != family.name:
            what = f"{source.name} is a model of {source.family.label}, not of {family.label}"
            script = " (sdxl_train_textual_inversion.py adds it, train_textual_inversion.py does not)"
            fix = f"Leave it out{script if flag == 'sdxl' else ''}: Neonym recognises the model by itself"
            problems.append(Problem("error", what, f"--{flag}", fix))
    if model.v_parameterization and source.family.process == "flow":
        what = "has no effect on a flow: it predicts neither noise nor v, but a direction"
        problems.append(Problem("warning", what, "--v_parameterization", "Leave it out"))
    elif model.v_parameterization and source.prediction_type != "v_prediction":
        what = f"the model predicts noise ({source.prediction_type}), according to {source.prediction_from}"
        problems.append(
            Problem("error", what, "--v_parameterization", "Leave it out: Neonym recognises the model by itself")
        )
    return problems


def compile_problems(backend: str) -> list[Problem]:
    """Return why torch.compile would fail at the first step, if it would."""
    from torch._dynamo import list_backends

    known = [*list_backends(exclude_tags=("debug",)), "eager", "aot_eager"]
    if backend not in known:
        fix = nearest(backend, known) or f"Known: {', '.join(sorted(known))}"
        return [Problem("error", f"`{backend}` is not known", "--dynamo_backend", fix)]
    if backend == "inductor" and not any(map(shutil.which, ("g++", "c++", "clang++", "cl"))):
        fix = "Install one, or use --dynamo_backend=aot_eager"
        return [Problem("error", "needs a C++ compiler, but there is none", "--torch_compile", fix)]
    return []


def setting_notes(run: RunConfig) -> list[Problem]:
    """Return notes on settings that are replaced or have no effect, and a warning if files lose precision."""
    notes = []
    if run.model.pretrained_model_name_or_path == "builtin:emoji":
        notes.append(
            Problem(
                "note",
                "the small built-in model is used (builtin:emoji); choose yours with --pretrained_model_name_or_path",
            )
        )
    plain = optimizer_name(run.optim.optimizer_type)
    if plain.lower() != (run.optim.optimizer_type or plain).lower():
        given = run.optim.optimizer_type
        what = (
            f"{given} is replaced by {plain}: the optimizer state takes only kilobytes, so there is no memory to save"
        )
        notes.append(Problem("note", what))
    if run.compute.xformers or run.compute.mem_eff_attn:
        notes.append(
            Problem(
                "note", "xformers and mem_eff_attn are replaced by PyTorch's own attention, which gives the same result"
            )
        )
    if run.save.save_precision != "float":
        bits = 8 if run.save.save_precision == "bf16" else 11
        what = f"the file keeps only {bits} significant bits of each number, and stable-diffusion.cpp reads only float"
        notes.append(
            Problem(
                "warning", what, f"--save_precision={run.save.save_precision}", "Leave it out: the file is small anyway"
            )
        )
    if run.cache.cache_latents:
        notes.append(Problem("note", "cache_latents is always on: images are encoded once, before training"))
    return notes
