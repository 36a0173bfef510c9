"""Helpers that record optimizer updates, and spoil their gradients."""

from dataclasses import dataclass

import torch

from neonym.training.concept import Concept


class Spoil(torch.autograd.Function):
    """An identity whose gradient is multiplied by a value, such as infinity."""

    @staticmethod
    def forward(ctx, losses, value):
        ctx.value = value
        return losses.clone()

    @staticmethod
    def backward(ctx, *grads):
        return grads[0] * ctx.value, None


@dataclass
class Update:
    """The values that an optimizer update starts with."""

    concept: Concept
    step: int
    scale: float
    rows: torch.Tensor
