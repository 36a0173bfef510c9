"""Changes of the noise that images begin from: an offset or coarser noise, for a share of the images."""

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
    """A change of the noise of a share of images, by an amount between two limits.

    "offset" adds one number per channel (Guttenberg 2023), "pyramid" coarser noise by a discount (Whitaker 2023).
    """

    kind: Literal["offset", "pyramid"]
    share: float
    amounts: tuple[float, float]

    def apply(self, noise: Tensor, seed: int) -> Tensor:
        """Return the noise [1,C,h,w] of the image with this seed, changed if it is one of the share."""
        chance = dice(seed, self.kind)
        if chance.random() >= self.share:
            return noise
        amount = chance.uniform(*self.amounts)
        return offset(noise, amount, chance) if self.kind == "offset" else with_pyramid(noise, amount, seed)


def offset(noise: Tensor, amount: float, chance: Random) -> Tensor:
    """Return the noise [1,C,h,w] with a random number times `amount` added to each channel."""
    generator = torch.Generator().manual_seed(chance.getrandbits(63))
    return noise + amount * torch.randn((1, noise.shape[1], 1, 1), generator=generator)


def with_pyramid(noise: Tensor, discount: float, seed: int) -> Tensor:
    """Return the noise [1,C,h,w] with coarser noise added, scaled back to a standard deviation of 1."""
    rules = NoiseRules(multires_noise_iterations=PYRAMID_LEVELS, multires_noise_discount=discount)
    noise = noise + rules.pyramid(noise, (seed, 0, 0))
    return noise / noise.std()
