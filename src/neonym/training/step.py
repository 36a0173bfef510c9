"""The method: the loss of the frozen model with the rows as they are, and one step that improves the rows.

Gal et al. 2022, "An Image is Worth One Word", eq. 2, for several words at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator

from neonym.models.model import Model
from neonym.training.concept import Concept, sum_by_index
from neonym.training.objective import Objective
from neonym.types import Batch, Work


def sample_losses(model: Model, batch: Batch, objective: Objective) -> torch.Tensor:
    """Return the losses [B] of the frozen model's predictions with the rows as they are now."""
    x0 = model.vae.draw(batch.moments, batch.keys)  # [B,2C,h,w] -> [B,C,h,w]
    noisy = model.process.add_noise(x0, batch.keys, batch.levels)  # x_t, target [B,C,h,w]; t, snr [B]
    text = model.text.encode(batch.text)  # {e: [B,K,L]} -> [B,S,D]: the only way to the rows
    prediction = model.predict(noisy.x_t, noisy.t, text, batch.conditions)  # [B,C,h,w]
    return objective.loss(prediction, noisy, batch.mask) * batch.weight  # [B]


def train_step(
    model: Model, concepts: Sequence[Concept], work: Work, objective: Objective, accelerator: Accelerator
) -> torch.Tensor:
    """Take one optimizer step for every concept drawn in this step, and return the losses [N].

    A concept that was not drawn is left alone: with a zero gradient, momentum would still move it. All concepts share
    one gradient scaler (fp16): each skips its own infinite gradients, and any of them lowers the scale for all.
    """
    scaler = accelerator.scaler
    losses = torch.zeros(len(concepts), device=accelerator.device)
    for batch in work.batches:  # this rank's micro-batches
        with accelerator.autocast():
            per_sample = sample_losses(model, batch, objective)
        per_concept = sum_by_index(per_sample, batch.concept, len(concepts)) / work.counts.clamp(min=1)
        accelerator.backward(per_concept.sum())
        losses += per_concept.detach()
    if scaler is not None and not work.batches:
        scaler.scale(losses)  # without a backward pass: a scaler that has scaled nothing cannot unscale
    losses = accelerator.reduce(losses, "sum")
    moving = [concepts[index] for index in work.present]
    for concept in moving:  # all communication comes before the first change
        concept.sum_gradients(accelerator)
    for concept in moving:
        concept.update(work.step, scaler)
    for concept in concepts:
        concept.clear_gradients()
    if scaler is not None and moving:
        scaler.update()
    return losses  # pyright: ignore[reportReturnType]
