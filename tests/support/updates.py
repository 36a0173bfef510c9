"""Updates of a run: spoiled, and looked at as they begin."""

from dataclasses import dataclass

import torch

from neonym.training.concept import Concept


class Spoil(torch.autograd.Function):
    """The losses as they are, and a gradient that is no number any more."""

    @staticmethod
    def forward(ctx, losses, value):
        ctx.value = value
        return losses.clone()

    @staticmethod
    def backward(ctx, *grads):
        return grads[0] * ctx.value, None


@dataclass
class Update:
    """What one update began with."""

    concept: Concept
    step: int
    scale: float
    rows: torch.Tensor
