"""What a run is made of, from its settings: the device and its precision, the noising process, the objective."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, KwargsHandler

from neonym.config.idle import tracker_kinds
from neonym.config.run import RunConfig
from neonym.learn.events import Report
from neonym.learn.objective import Objective
from neonym.learn.outputs import tracker_folder
from neonym.models.family import Model
from neonym.models.process import Diffusion, NoiseRules

MINUTES = 10  # that processes wait for each other
MINUTES_FOR_PICTURES = 120  # the first process draws sample pictures while the others wait


def start_accelerator(run: RunConfig, report: Report) -> Accelerator:
    """The device, and the nearest precision that it can compute in."""
    precision = run.compute.mixed_precision
    if not torch.distributed.is_initialized():  # a second run in one process may use another device or precision
        AcceleratorState._reset_state(reset_partial_state=True)
    on_cpu = run.compute.cpu or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if precision == "fp16" and on_cpu:
        report.note(
            "note: mixed_precision fp16 -> fp32: a CPU does not compute in fp16; the result is at least as exact."
        )
        precision = "no"
    draws = run.sample.sample_prompts is not None
    minutes = run.compute.ddp_timeout or (MINUTES_FOR_PICTURES if draws else MINUTES)
    waiting: list[KwargsHandler] = [InitProcessGroupKwargs(timeout=timedelta(minutes=minutes))]
    return Accelerator(
        mixed_precision=precision, cpu=run.compute.cpu, kwargs_handlers=waiting,
        log_with=[*tracker_kinds(run.log)] or None, project_dir=tracker_folder(run.log),
    )  # fmt: skip


def weight_dtype(accelerator: Accelerator) -> torch.dtype:
    """Of the frozen model: the training precision on a GPU. On a CPU autocast alone does it."""
    if accelerator.device.type == "cpu":
        return torch.float32
    return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision, torch.float32)


def objective_of(run: RunConfig) -> Objective:
    """The settings that say how a prediction is judged."""
    return Objective(**{f.name: getattr(run.objective, f.name) for f in fields(Objective)})


def process_of(model: Model, run: RunConfig) -> Diffusion:
    """The model's noising process with the run's rules; a rule that was not given is the plain one."""
    given = {f.name: getattr(run.objective, f.name) for f in fields(NoiseRules)}
    rules = NoiseRules(**{name: value for name, value in given.items() if value is not None})
    process = replace(model.process, rules=rules)
    return process.with_zero_terminal_snr() if run.objective.zero_terminal_snr else process
