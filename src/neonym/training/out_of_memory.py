"""The error of a run for which the memory of its GPU does not suffice, with what would save memory."""

from __future__ import annotations

from collections.abc import Iterator

from neonym.errors import UserError
from neonym.models.loading.cpu_precision import number_of_weights
from neonym.models.memory import GB
from neonym.training.lanes import Lanes
from neonym.training.precision import weight_dtype


def out_of_memory_error(lanes: Lanes, error: Exception) -> UserError:
    """Save the states, and return the error to raise."""
    steps = " and ".join(f"step {step}" for step in dict.fromkeys(lanes.save_all()))
    reason = next(iter(str(error).splitlines()), "out of memory").rstrip(".")
    what = f"the memory of {lanes.accelerator.device} does not suffice ({reason}); {steps or 'nothing'} is saved"
    return UserError(what, "training", f"{'; '.join(ways_to_save(lanes))}. Then run the same command again")


def ways_to_save(lanes: Lanes) -> Iterator[str]:
    """Yield the settings that would save memory, those without a disadvantage first, with what each saves."""
    plan = lanes.lanes[0].plan
    compute = plan.run.compute
    samples = compute.micro_batch_size or max(dataset.batch_size for dataset in plan.datasets)
    if samples > 1:
        yield f"--micro_batch_size=1 saves {100 * (samples - 1) // samples} % of what a step of {samples} samples takes"
    if not compute.gradient_checkpointing:
        yield "--gradient_checkpointing keeps the activations of one block at a time; a step takes about 50 % longer"
    if compute.base_precision in ("auto", "bf16"):
        freed = number_of_weights(plan.source) * (weight_dtype(lanes.accelerator).itemsize - 1) / GB
        yield f"--base_precision=fp8 saves {freed:.1f} GB of weights; they are slightly less exact"
    yield "a lower --resolution saves memory in proportion to the pixels"
