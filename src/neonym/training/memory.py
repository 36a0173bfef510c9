"""Decide how the frozen weights of a run are kept in memory, by its settings or by the memory of the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import psutil
import torch
from accelerate import Accelerator

from neonym.config.run import RunConfig
from neonym.errors import UserError
from neonym.models.loading.enough_memory import check_memory
from neonym.models.loading.parts import free_on
from neonym.models.loading.sizes import needs_of
from neonym.models.memory import (
    GB,
    Choice,
    Estimate,
    Needs,
    Step,
    choices,
    estimate,
    fitting_choice,
    smaller_batches,
    weights_on,
)
from neonym.models.source import ModelSource
from neonym.models.storage import Scheme, Storage
from neonym.preflight.defaults import with_settings
from neonym.preflight.memory import is_fitted, largest_step, scheme_of, without_rows
from neonym.preflight.plan import TrainingPlan
from neonym.training.precision import weight_dtype
from neonym.training.setup import samples_at_once

CONTEXT = 0.4 * GB  # of CUDA in this process, which is not free any more and part of the reserve of an estimate


class Memory(NamedTuple):
    """The memory of a device in bytes."""

    total: float
    free: float

    @classmethod
    def whole(cls, total: float) -> Memory:
        """Return the memory of a device all of which counts as free."""
        return cls(total, total)

    def __str__(self) -> str:
        total = f"{self.total / GB:.1f} GB"
        return f"there are {total}" if self.free == self.total else f"{self.free / GB:.1f} of {total} are free"


def with_fit(
    plans: Sequence[TrainingPlan], accelerator: Accelerator, note: Callable[[str], None]
) -> list[TrainingPlan]:
    """Return the plans with what `--fit` chooses so that a step fits the memory of the device.

    The precision of the weights, which changes what a word learns, is what would be chosen for the word alone. All else
    is chosen for the words of one precision, which learn together. Raises UserError if not even the weights fit, in the
    smallest form.
    """
    precisions = [precision_for(plan, accelerator) for plan in plans]
    found: dict[int, TrainingPlan] = {}
    for precision in dict.fromkeys(precisions):
        which = [i for i, own in enumerate(precisions) if own == precision]
        fitted = with_fit_together([plans[i] for i in which], accelerator, note)
        found |= zip(which, fitted, strict=True)
    return [found[i] for i in range(len(plans))]


def with_fit_together(
    plans: Sequence[TrainingPlan], accelerator: Accelerator, note: Callable[[str], None]
) -> list[TrainingPlan]:
    """Return the plans of words that learn together, for which `--fit` alone would choose one precision.

    Raises UserError if not even the weights fit, in the smallest form.
    """
    run, found = plans[0].run, ways_of(plans, accelerator)
    if found is None:
        if run.compute.fit == "auto" and accelerator.device.type == "cuda":
            note(
                "note: --fit: there is no estimate of the memory that a step of this model needs, so nothing is chosen"
            )
        return [*plans]
    memory, asked = memory_of(accelerator.device, run.compute.deterministic), found.ways[0]
    precision = precision_for(plans[0], accelerator)
    ways = [way for way in found.ways if way.precision == precision]
    choice, needed = fitting_choice(found.needs, memory.free, ways)
    if is_fitted(run):
        refuse_if_impossible(needed, memory.total, plans[0].source)
    if choice != asked:
        before = f"a step needs about {estimate(found.needs, asked).total / GB:.1f} GB, but {memory}"
        note(f"note: --fit: {before} -> {choice} (about {needed.total / GB:.1f} GB)")
    warn_if_too_large(choice, needed, memory, note)
    at_once = (choice.samples or found.needs.step.samples) if found.is_open else None
    if replace(choice, samples=None) == asked:
        return [replace(plan, at_once=at_once) for plan in plans]
    settings = settings_of(choice)
    return [replace(plan, run=with_settings(plan.run, settings), at_once=at_once) for plan in plans]


class Ways(NamedTuple):
    """The ways in which words can learn together, the best first, and the estimate that decides between them."""

    needs: Needs
    ways: list[Choice]
    is_open: bool  # whether the samples that go through the model together are to be chosen


def ways_of(plans: Sequence[TrainingPlan], accelerator: Accelerator) -> Ways | None:
    """Return the ways in which words can learn together, by their settings; None if there is no estimate."""
    plan, device = plans[0], accelerator.device
    if device.type != "cuda" and not plan.source.family.denoiser.blocks:  # where convolutions keep packed weights
        return None
    compute = plan.run.compute
    is_open = compute.fit == "auto" and compute.micro_batch_size is None and device.type == "cuda"
    needs = needs_of(plan.source, plan.tokenizers, step_of(plans, accelerator, is_open))
    if needs is None:
        return None
    weights = weights_on(needs.sizes, needs.step, Storage()) * accelerator.num_processes
    can_leave = weights <= psutil.virtual_memory().total / 2
    needs = needs._replace(step=replace(needs.step, can_leave=can_leave))
    is_whole = is_fitted(plan.run)
    ways = ways_on(device, plans, needs) if is_whole else [choice_of(plan.run, plan.source, device)]
    batches = smaller_batches(needs.step.samples) if is_open else (None,)
    return Ways(needs, [replace(way, samples=count) for way in ways for count in batches], is_open)


def precision_for(plan: TrainingPlan, accelerator: Accelerator) -> tuple[Scheme | None, Scheme | None] | None:
    """Return the precision of the weights with which a word alone fits the device; None if there is no estimate.

    What counts is the memory that the device has, not what is free, so that a run is the same every time.
    """
    if (found := ways_of([plan], accelerator)) is None:
        return None
    memory = memory_of(accelerator.device, plan.run.compute.deterministic)
    return fitting_choice(found.needs, memory.total, found.ways)[0].precision


def step_of(plans: Sequence[TrainingPlan], accelerator: Accelerator, is_open: bool) -> Step:
    """Return the largest step of several words; if it `is_open`, a whole batch goes through the model together."""
    plan, width = plans[0], weight_dtype(accelerator).itemsize
    at_once = None if is_open else samples_at_once(plan, accelerator.device)
    datasets = [dataset for own in plans for dataset in own.datasets]
    step = largest_step(plan.run, plan.source, datasets, at_once, width)
    return replace(step, keeps_vae=any(own.encodes_in_each_step for own in plans))


def ways_on(device: torch.device, plans: Sequence[TrainingPlan], needs: Needs) -> list[Choice]:
    """Return the choices of `fit` on a device, the best first."""
    is_apart = device.type == "cuda"  # its memory is not that of the CPU, in which weights can wait
    can_swap = is_apart and not plans[0].run.compute.torch_compile
    can_wait = able_to_wait(plans, needs) if is_apart else ()
    return [*choices(len(needs.sizes.denoiser.blocks), can_swap, can_wait)]


def able_to_wait(plans: Sequence[TrainingPlan], needs: Needs) -> tuple[str, ...]:
    """Return the encoders without rows if they fit in half of the CPU's memory, where they would wait."""
    idle = idle_encoders(plans)
    needed = sum(needs.sizes.encoders[name].numbers.memory(None, needs.step.width) for name in idle)
    return idle if needed <= psutil.virtual_memory().total / 2 else ()


def idle_encoders(plans: Sequence[TrainingPlan]) -> tuple[str, ...]:
    """Return the text encoders that no word has rows for, not even rows that stay as a file has them."""
    with_rows = {encoder for plan in plans for encoder in plan.concept.with_rows}
    return tuple(name for name in without_rows(plans[0].run, plans[0].source) if name not in with_rows)


def settings_of(choice: Choice) -> dict[str, object]:
    """Return the settings that a choice stands for. Those that decide the result stay open unless it changes."""
    return {
        "base_precision": choice.storage.denoiser or "auto",
        "encoder_precision": choice.storage.encoders or "auto",
        "gradient_checkpointing": choice.checkpointing,
        "blocks_to_swap": choice.storage.blocks_to_swap,
        "cache_text_encoder_outputs": bool(choice.storage.waiting),
    }


def choice_of(run: RunConfig, source: ModelSource, device: torch.device) -> Choice:
    """Return the choice that a run's settings stand for."""
    storage = storage_of(run, source, device, lambda _: None)
    return Choice(storage, run.compute.gradient_checkpointing or storage.blocks_to_swap > 0)


def memory_of(device: torch.device, repeatable: bool) -> Memory:
    """Return the memory of a device; all of it counts as free if a run is to be `repeatable`, and on other devices.

    What torch keeps in this process is free: a model that is kept for the next words is part of what they need, and so
    is the context of the device.
    """
    if device.type != "cuda":
        return Memory.whole(psutil.virtual_memory().total)
    if repeatable:
        return Memory.whole(torch.cuda.get_device_properties(device).total_memory)
    free, total = torch.cuda.mem_get_info(device)
    return Memory(total, min(total, free + torch.cuda.memory_reserved(device) + CONTEXT))


def warn_if_too_large(choice: Choice, needed: Estimate, memory: Memory, note: Callable[[str], None]) -> None:
    """Emit a note if a step will probably not fit in the memory that is free."""
    if needed.total > memory.free:
        settings = f" ({choice})" if str(choice) else ""
        note(
            f"note: a step needs about {needed.total / GB:.1f} GB with these settings{settings}, but {memory}: it may "
            f"fail. Use a lower --resolution{' or --micro_batch_size=1' if choice.samples != 1 else ''}"
        )


def refuse_if_impossible(needed: Estimate, memory: float, source: ModelSource) -> None:
    """Raise UserError if not even the weights fit, in the smallest form."""
    least = needed.weights + needed.reserve
    if least > memory:
        own = f"{least / GB:.1f} GB"
        what = f"its weights need about {own} even in the smallest form, but there are {memory / GB:.1f} GB"
        raise UserError(what, source.name, "Use a smaller model, or a device with more memory")


def refuse_without_memory(plan: TrainingPlan, accelerator: Accelerator) -> None:
    """Raise ModelError if the memory of the machine or of its device cannot hold the weights, in the form of the run."""
    device = accelerator.device
    source = replace(plan.source, storage=storage_of(plan.run, plan.source, device, lambda _: None))
    check_memory(source, device.type != "cuda", weight_dtype(accelerator).itemsize, free_on(device))


def storage_of(run: RunConfig, source: ModelSource, device: torch.device, note: Callable[[str], None]) -> Storage:
    """Return how the frozen weights are kept in memory, according to the run's settings."""
    settings, denoiser = run.compute, source.family.denoiser
    base = scheme_on(device, settings.base_precision, note)
    encoders = base if settings.encoder_precision == "auto" else scheme_on(device, settings.encoder_precision, note)
    quantizable = [encoder.name for encoder in source.encoder_specs if encoder.is_large]
    if encoders is not None and quantizable:
        names = " and ".join(quantizable)
        note(f"note: the weights of {names} are kept in {encoders}, except for the table of all tokens")
    can_wait = settings.cache_text_encoder_outputs and device.type == "cuda"
    waiting = without_rows(run, source) if can_wait else ()
    return Storage(base, encoders, (settings.blocks_to_swap or 0) if denoiser.blocks else 0, waiting)


def scheme_on(device: torch.device, precision: str, note: Callable[[str], None]) -> Scheme | None:
    """Return the scheme of a precision on a device; None if weights are not quantized."""
    scheme = scheme_of(precision)
    if scheme == "fp8" and device.type == "mps":
        note("note: fp8 -> int8: this device has no 8-bit floating-point numbers; int8 takes the same memory")
        return "int8"
    return scheme
