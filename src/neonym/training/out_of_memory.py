"""The error of a run for which the memory of its GPU does not suffice, with what would save memory."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from neonym.errors import UserError
from neonym.models.loading.enough_memory import plain_shapes
from neonym.models.loading.sizes import needs_of
from neonym.models.memory import GB, Choice, Step, estimate
from neonym.models.source import ModelSource
from neonym.models.storage import Storage
from neonym.preflight.memory import largest_step
from neonym.preflight.plan import TrainingPlan
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
    width = weight_dtype(lanes.accelerator).itemsize
    step = largest_step(plan.run, plan.source, plan.datasets, samples_at_once(plan, device), width)
    samples, takes_steps = step.samples, bool(lanes.runs)  # else the model, or the VAE for an image, did not fit
    if samples > 1 and takes_steps:
        yield f"--micro_batch_size=1 saves {100 * (samples - 1) // samples} % of what a step of {samples} samples takes"
    if takes_steps and not compute.gradient_checkpointing:
        yield f"--gradient_checkpointing {saved_by_checkpointing(plan, step)}; a step takes about 50 % longer"
    freed = denoiser_weights(plan.source) * (width - 1) / GB
    if freed and compute.base_precision in ("auto", "bf16"):
        yield f"--base_precision=fp8 with --restart saves {freed:.1f} GB of weights, which are then slightly less exact"
    yield "a lower --resolution with --restart saves memory in proportion to the pixels"


def saved_by_checkpointing(plan: TrainingPlan, step: Step) -> str:
    """Return what gradient checkpointing saves in a step, in gigabytes where there is an estimate."""
    needs = needs_of(plan.source, plan.tokenizers, step)
    if needs is None:
        return "keeps the activations of one block at a time"
    plain, checkpointed = (estimate(needs, Choice(Storage(), way)).activations / GB for way in (False, True))
    return f"lowers the activations from about {plain:.1f} to {checkpointed:.1f} GB"


def denoiser_weights(source: ModelSource) -> int:
    """Return the number of a denoiser's weights; 0 if its file does not tell without being read whole."""
    weights = source.weights.get(source.family.denoiser.part)
    return sum(map(prod, plain_shapes(weights).values())) if weights else 0
