"""The objective: how far a prediction is from its target, per sample."""

from dataclasses import dataclass

from torch import Tensor

from neonym.types import Noisy


@dataclass(frozen=True)
class Objective:
    """Mean squared error over channels and pixels (Ho et al. 2020, eq. 14)."""

    def loss(self, guess: Tensor, noisy: Noisy) -> Tensor:
        """[B,C,h,w] -> [B], in float32"""
        return (guess.float() - noisy.target.float()).square().mean((1, 2, 3))
