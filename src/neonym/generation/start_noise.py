"""Change the initial noise of a fraction of the images, by an offset or by coarser noise."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

import torch
from torch import Tensor

from neonym.models.process.noise import NoiseRules
from neonym.seeds import dice

PYRAMID_LEVELS = 6


@dataclass(frozen=True)
class NoiseChange:
    """A change to the initial noise of a fraction of the images, by a random amount between two limits.

    "offset" adds one number per channel (Guttenberg 2023). "pyramid" adds coarser noise, discounted at each level
    (Whitaker 2023).
    """

    kind: Literal["offset", "pyramid"]
    share: float
    amounts: tuple[float, float]

    def apply(self, noise: Tensor, seed: int) -> Tensor:
        """Return the noise [1,C,h,w] of the image with this seed, changed if the image belongs to the fraction."""
        chance = dice(seed, self.kind)
        if chance.random() >= self.share:
            return noise
        amount = chance.uniform(*self.amounts)
        return add_offset(noise, amount, chance) if self.kind == "offset" else add_pyramid(noise, amount, seed)


def add_offset(noise: Tensor, amount: float, chance: Random) -> Tensor:
    """Return the noise [1,C,h,w] with a random number times `amount` added to each channel."""
    generator = torch.Generator().manual_seed(chance.getrandbits(63))
    return noise + amount * torch.randn((1, noise.shape[1], 1, 1), generator=generator)


def add_pyramid(noise: Tensor, discount: float, seed: int) -> Tensor:
    """Return the noise [1,C,h,w] with coarser noise added, rescaled to a standard deviation of 1."""
    rules = NoiseRules(multires_noise_iterations=PYRAMID_LEVELS, multires_noise_discount=discount)
    noise = noise + rules.pyramid(noise, (seed, 0, 0))
    return noise / noise.std()
