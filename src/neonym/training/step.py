"""The method: the loss of the frozen model with the rows as they are, and one step that improves the rows.

Gal et al. 2022, "An Image is Worth One Word", eq. 2, for several words at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator

from neonym.io.transfer import sent
from neonym.models.encoders.rows import exact
from neonym.models.model import Model
from neonym.training.concept import Concept
from neonym.training.objective import Objective
from neonym.types import Batch, Conditions, Encoded, Noisy, Work


@dataclass(frozen=True)
class Inputs:
    """A frozen record of what the prediction and the loss of a micro-batch read, on the device of the model."""

    noisy: Noisy
    text: Encoded
    conditions: Conditions
    mask: torch.Tensor | None  # [B,1,h,w]
    weight: torch.Tensor  # [B]


def inputs_of(model: Model, batch: Batch) -> Inputs:
    """Return the inputs of a micro-batch: its latents are noised, on the host."""
    text = replace(batch.text, words=frozenset())  # which words are in it, only their ids tell the model
    return Inputs(model.noised(batch), text, batch.conditions, batch.mask, batch.weight)


def losses_of(model: Model, inputs: Inputs, objective: Objective) -> torch.Tensor:
    """Return the losses [B] of the frozen model's predictions with the rows as they are now.

    Nothing here is drawn, copied from the host or read by it, so that a CUDA graph can hold all of it.
    """
    noisy = inputs.noisy
    text = model.text.encode(inputs.text)  # {e: [B,K,L]} -> [B,S,D]: the only way to the rows
    prediction = model.predict(noisy.x_t, noisy.t, text, inputs.conditions)  # [B,C,h,w]
    return objective.loss(prediction, noisy, inputs.mask) * inputs.weight  # [B]


def sample_losses(model: Model, batch: Batch, objective: Objective) -> torch.Tensor:
    """Return the losses [B] of a micro-batch with the rows as they are now."""
    return losses_of(model, inputs_of(model, batch), objective)


Backward = Callable[[Model, Inputs, torch.Tensor, Objective], torch.Tensor]


def backward(model: Model, inputs: Inputs, factors: torch.Tensor, objective: Objective) -> torch.Tensor:
    """Add the gradients of the losses times `factors` [B] to those of the rows, and return the losses [B]."""
    losses = losses_of(model, inputs, objective)
    (losses * factors).sum().backward()
    return losses.detach()


def train_step(
    model: Model,
    concepts: Sequence[Concept],
    works: Sequence[Work],
    batches: Iterable[Batch],
    objective: Objective,
    accelerator: Accelerator,
    backward: Backward = backward,
) -> torch.Tensor:
    """Take one optimizer step for every word that is trained by its work, and return the losses [N] of all words.

    A micro-batch may hold samples of several words, which do not affect each other: `batches` are this rank's. A word
    that is in none of its captions is left alone: with a zero gradient, momentum would still move it. `backward` is the
    function of that name or one that does the same, such as `Graphs`.
    """
    counts = sent(torch.tensor([float(work.count) for work in works]), accelerator.device)  # [N]
    sums = torch.zeros(len(concepts), dtype=exact(accelerator.device), device=accelerator.device)  # [N]
    scales = gradient_scales(concepts, accelerator.device)
    factors = 1 / counts if scales is None else scales / counts  # [N]
    for batch in batches:
        losses = backward(model, inputs_of(model, batch), factors[batch.concept], objective)  # [B]
        sums.index_add_(0, batch.concept, (losses / counts[batch.concept]).to(sums.dtype))
    losses = accelerator.reduce(sums, "sum").float()  # pyright: ignore[reportAttributeAccessIssue]
    moving = [(concept, work.step) for concept, work in zip(concepts, works, strict=True) if work.trains]
    for concept, _ in moving:  # all communication comes before the first change
        concept.sum_gradients(accelerator)
    try:
        for concept, step in moving:
            concept.update(step)
    except torch.OutOfMemoryError as error:  # no step that could be repeated, or saved under its number
        raise RuntimeError("the memory of the device was used up while the rows were updated") from error
    for concept in concepts:
        concept.clear_gradients()
    return losses


def gradient_scales(concepts: Sequence[Concept], device: torch.device) -> torch.Tensor | None:
    """Return the gradient scale of each word, [N], without waiting for the device; None without scalers.

    Each word has its own, so that one word's infinite gradients do not change the steps of the others.
    """
    one = torch.ones((), device=device)
    scales = [concept.scaler.scale(one) for concept in concepts if concept.scaler is not None]
    return torch.stack(scales) if scales else None
