"""The method: the loss of the frozen model with the rows as they are, and one step that improves the rows.

Gal et al. 2022, "An Image is Worth One Word", eq. 2, for several words at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from accelerate import Accelerator

from neonym.io.transfer import sent
from neonym.models.encoders.rows import exact
from neonym.models.model import Model
from neonym.training.concept import Concept
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
    model: Model,
    concepts: Sequence[Concept],
    works: Sequence[Work],
    batches: Iterable[Batch],
    objective: Objective,
    accelerator: Accelerator,
) -> torch.Tensor:
    """Take one optimizer step for every word that is trained by its work, and return the losses [N] of all words.

    A micro-batch may hold samples of several words, which do not affect each other: `batches` are this rank's. A word
    that is in none of its captions is left alone: with a zero gradient, momentum would still move it.
    """
    counts = sent(torch.tensor([float(work.count) for work in works]), accelerator.device)  # [N]
    sums = torch.zeros(len(concepts), dtype=exact(accelerator.device), device=accelerator.device)  # [N]
    scales = gradient_scales(concepts, accelerator.device)
    for batch in batches:
        losses = sample_losses(model, batch, objective) / counts[batch.concept]  # [B]
        (losses if scales is None else losses * scales[batch.concept]).sum().backward()
        sums.index_add_(0, batch.concept, losses.detach().to(sums.dtype))
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
