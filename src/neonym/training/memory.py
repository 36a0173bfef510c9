"""Decide how the frozen weights of a run are kept in memory, by its settings or by the memory of the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import psutil
import torch
from accelerate import Accelerator

from neonym.config.run import RunConfig
from neonym.errors import UserError
from neonym.models.loading.enough_memory import check_memory
from neonym.models.loading.parts import free_on
from neonym.models.loading.sizes import sizes_of
from neonym.models.memory import GB, RESERVE, Choice, Estimate, ModelSizes, estimate, fitting_choice
from neonym.models.source import ModelSource
from neonym.models.storage import Scheme, Storage
from neonym.preflight.defaults import with_settings
from neonym.preflight.memory import is_fitted, largest_step, scheme_of, without_rows
from neonym.preflight.plan import TrainingPlan
from neonym.training.precision import weight_dtype
from neonym.training.setup import samples_at_once


def with_fit(plan: TrainingPlan, accelerator: Accelerator, note: Callable[[str], None]) -> RunConfig:
    """Return the run with settings that fit the memory of the device, if `--fit` is to choose them.

    They do not depend on which words learn beside this one, as they change what it learns. Raises UserError if not even the weights fit, in the smallest form.
    """
    run, source, device = plan.run, plan.source, accelerator.device
    sizes = sizes_of(source)
    if sizes is None:
        return run
    width = weight_dtype(accelerator).itemsize
    step = largest_step(run, source, plan.datasets, samples_at_once(run, source, device), width)
    memory = memory_of(device)
    if not is_fitted(run):
        given = choice_of(run, source, device)
        warn_if_too_large(given, estimate(sizes, step, given), memory, note)
        return run
    is_apart = device.type == "cuda"  # its memory is not that of the CPU, in which weights can wait
    can_swap, can_wait = (
        is_apart and not run.compute.torch_compile,
        able_to_wait(plan, sizes, width) if is_apart else (),
    )
    choice, needed = fitting_choice(sizes, step, memory, can_swap, can_wait)
    refuse_if_impossible(needed, memory, source)
    plain = Choice(Storage())
    if choice == plain:
        return run
    note(
        f"note: --fit: a step needs about {estimate(sizes, step, plain).total / GB:.0f} GB, but there are "
        f"{memory / GB:.0f} GB -> {choice} (about {needed.total / GB:.0f} GB)"
    )
    warn_if_too_large(choice, needed, memory, note)
    return with_settings(run, settings_of(choice))


def able_to_wait(plan: TrainingPlan, sizes: ModelSizes, width: int) -> tuple[str, ...]:
    """Return the encoders without rows if they fit in half of the CPU's memory, where they would wait."""
    idle = idle_encoders([plan])
    needed = sum(sizes.encoders[name].numbers.memory(None, width) for name in idle)
    return idle if needed <= psutil.virtual_memory().total / 2 else ()


def idle_encoders(plans: Sequence[TrainingPlan]) -> tuple[str, ...]:
    """Return the text encoders that no word has rows for, not even rows that stay as a file has them."""
    with_rows = {encoder for plan in plans for encoder in plan.concept.with_rows}
    return tuple(name for name in without_rows(plans[0].run, plans[0].source) if name not in with_rows)


def settings_of(choice: Choice) -> dict[str, object]:
    """Return the settings that a choice stands for."""
    return {
        "base_precision": choice.storage.denoiser or "bf16",
        "encoder_precision": choice.storage.encoders or "bf16",
        "gradient_checkpointing": choice.checkpointing,
        "blocks_to_swap": choice.storage.blocks_to_swap,
        "cache_text_encoder_outputs": bool(choice.storage.waiting),
    }


def choice_of(run: RunConfig, source: ModelSource, device: torch.device) -> Choice:
    """Return the choice that a run's settings stand for."""
    storage = storage_of(run, source, device, lambda _: None)
    return Choice(storage, run.compute.gradient_checkpointing or storage.blocks_to_swap > 0)


def memory_of(device: torch.device) -> float:
    """Return the memory of a device in bytes: what it has, not what is free, so that a run is the same every time."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(psutil.virtual_memory().total)


def warn_if_too_large(choice: Choice, needed: Estimate, memory: float, note: Callable[[str], None]) -> None:
    """Emit a note if a step will probably not fit in the memory of the device."""
    if needed.total > memory:
        note(
            f"note: a step needs about {needed.total / GB:.0f} GB with these settings ({choice}), but there are "
            f"{memory / GB:.0f} GB: it may fail. Use a lower --resolution or --micro_batch_size=1"
        )


def refuse_if_impossible(needed: Estimate, memory: float, source: ModelSource) -> None:
    """Raise UserError if not even the weights fit, in the smallest form."""
    if needed.weights + RESERVE > memory:
        what = (
            f"its weights need about {(needed.weights + RESERVE) / GB:.1f} GB even in 4 bits and with blocks that "
            f"wait in the memory of the CPU, but there are {memory / GB:.1f} GB"
        )
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
