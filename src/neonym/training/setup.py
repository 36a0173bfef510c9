"""The parts of a run that follow from its settings: device and precision, noising process, objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, KwargsHandler

from neonym.config.learning_settings import ObjectiveSettings
from neonym.config.run import RunConfig
from neonym.config.without_effect import DIFFUSION_ONLY, FLOW_ONLY
from neonym.models.model import Model
from neonym.models.process.diffusion import Diffusion
from neonym.models.process.flow import Flow
from neonym.models.process.noise import NoiseRules
from neonym.models.source import ModelSource
from neonym.preflight.plan import TrainingPlan
from neonym.training.objective import Objective

MINUTES = 10  # how long processes wait for each other
MINUTES_WITH_SAMPLES = 120  # the first process generates sample images while the others wait
GIB = 2**30


def samples_at_once(plan: TrainingPlan, device: torch.device) -> int | None:
    """Return how many samples go through the model together; None for the whole batch.

    By default this is what `--fit` chose, or else one on a GPU with less memory than a whole step of this model needs.
    The result is the same up to rounding.
    """
    given = plan.run.compute.micro_batch_size
    if given is not None or device.type != "cuda":
        return given
    if plan.at_once is not None:
        return plan.at_once
    memory = torch.cuda.get_device_properties(device).total_memory
    return 1 if memory < plan.source.defaults.gpu_memory.value * GIB else None


def start_accelerator(run: RunConfig, note: Callable[[str], None]) -> Accelerator:
    """Return an Accelerator with the precision of the run, or the nearest one that the device supports."""
    precision = run.compute.mixed_precision
    if not torch.distributed.is_initialized():  # a second run in this process may use another device or precision
        AcceleratorState._reset_state(reset_partial_state=True)
    on_cpu = run.compute.cpu or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if precision == "fp16" and on_cpu:
        note("note: mixed_precision fp16 -> fp32: a CPU does not compute in fp16; the result is at least as exact.")
        precision = "no"
    has_samples = run.sample.sample_prompts is not None
    minutes = run.compute.ddp_timeout or (MINUTES_WITH_SAMPLES if has_samples else MINUTES)
    waiting: list[KwargsHandler] = [InitProcessGroupKwargs(timeout=timedelta(minutes=minutes))]
    return Accelerator(mixed_precision=precision, cpu=run.compute.cpu, kwargs_handlers=waiting)


def objective_of(run: RunConfig, source: ModelSource) -> Objective:
    """Return the objective that a run's settings describe, without those that have no meaning for the process."""
    unused = FLOW_ONLY if source.family.process == "diffusion" else DIFFUSION_ONLY
    names = [f.name for f in fields(Objective) if f.name not in unused]
    return Objective(**{name: getattr(run.objective, name) for name in names})


def process_of(model: Model, run: RunConfig) -> Diffusion | Flow:
    """Return the model's noising process with the run's rules; a rule that is not set keeps its default."""
    given = {f.name: getattr(run.objective, f.name) for f in fields(NoiseRules)}
    rules = NoiseRules(**{name: value for name, value in given.items() if value is not None})
    process = model.process.with_rules(rules)
    if run.objective.zero_terminal_snr and isinstance(process, Diffusion):
        return process.with_zero_terminal_snr()
    return sampled_as(process, run.objective) if isinstance(process, Flow) else process


def sampled_as(flow: Flow, settings: ObjectiveSettings) -> Flow:
    """Return the flow with the distribution of sigma in the settings; what is not set stays the family's."""
    names = ("sigmoid_scale", "logit_mean", "logit_std", "mode_scale", "weighting_scheme")
    flow = replace(flow, **{name: getattr(settings, name) for name in names})
    if settings.timestep_sampling is not None:
        flow = replace(flow, sampling=settings.timestep_sampling)
    shift = settings.discrete_flow_shift
    return flow if shift is None else replace(flow, shift=shift, line=None)
