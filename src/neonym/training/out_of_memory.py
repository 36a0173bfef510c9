"""The error of a run for which the memory of its GPU does not suffice, with what would save memory."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from neonym.errors import UserError
from neonym.models.loading.enough_memory import plain_shapes
from neonym.models.memory import GB
from neonym.models.source import ModelSource
from neonym.training.lanes import Lanes
from neonym.training.precision import weight_dtype
from neonym.training.setup import samples_at_once


def out_of_memory_error(lanes: Lanes, error: Exception) -> UserError:
    """Save the states, and return the error to raise."""
    steps = " and ".join(
        f"step {step}" for step in dict.fromkeys(lanes.save_all()) if lanes.accelerator.is_main_process
    )
    reason = next(iter(str(error).splitlines()), "out of memory").rstrip(".")
    what = f"the memory of {lanes.accelerator.device} does not suffice ({reason}); {steps or 'nothing'} is saved"
    return UserError(what, "training", f"{'; '.join(ways_to_save(lanes))}. Run the command again with one of these")


def ways_to_save(lanes: Lanes) -> Iterator[str]:
    """Yield the settings that would save memory, those without a disadvantage first, with what each saves."""
    plan = lanes.runs[0][1].plan if lanes.runs else lanes.lanes[0].plan
    compute, device = plan.run.compute, lanes.accelerator.device
    samples = samples_at_once(plan.run, plan.source, device) or max(dataset.batch_size for dataset in plan.datasets)
    if samples > 1:
        yield f"--micro_batch_size=1 saves {100 * (samples - 1) // samples} % of what a step of {samples} samples takes"
    if not compute.gradient_checkpointing:
        yield "--gradient_checkpointing keeps the activations of one block at a time; a step takes about 50 % longer"
    freed = denoiser_weights(plan.source) * (weight_dtype(lanes.accelerator).itemsize - 1) / GB
    if freed and compute.base_precision in ("auto", "bf16"):
        yield f"--base_precision=fp8 with --restart saves {freed:.1f} GB of weights, which are then slightly less exact"
    yield "a lower --resolution with --restart saves memory in proportion to the pixels"


def denoiser_weights(source: ModelSource) -> int:
    """Return the number of a denoiser's weights; 0 if its file does not tell without being read whole."""
    weights = source.weights.get(source.family.denoiser.part)
    return sum(map(prod, plain_shapes(weights).values())) if weights else 0
