"""The objective: how far a prediction is from its target, and how much each sample counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from neonym.types import Noisy

SMALLEST_AREA = 1e-3  # share of an image: an empty mask must not divide by zero
SMALLEST_SNR = 1e-8  # under zero terminal SNR the last step has none at all


@dataclass(frozen=True)
class Objective:
    """The loss and its weights, named like sd-scripts' flags. The default is the mean squared error of Ho et al. 2020, eq. 14."""

    loss_type: Literal["l2", "l1", "huber", "smooth_l1"] = "l2"
    huber_schedule: Literal["constant", "exponential", "snr"] = "snr"
    huber_c: float = 0.1
    huber_scale: float = 1.0
    min_snr_gamma: float | None = None  # Hang et al. 2023
    scale_v_pred_loss_like_noise_pred: bool = False
    v_pred_like_loss: float | None = None
    debiased_estimation_loss: bool = False  # Yu et al. 2023
    mask_normalize: bool = False  # no flag of sd-scripts: a masked loss is a mean over the masked area, not the image

    def loss(self, guess: Tensor, noisy: Noisy, mask: Tensor | None = None) -> Tensor:
        """Return the loss of each sample, float32 [B], of a `guess` [B,C,h,w].

        It is the mean over channels and positions, multiplied by the `mask` [B,1,h,w], times the noise level's weight.
        """
        distance = self.distance(guess.float() - noisy.target.float(), noisy)  # [B,C,h,w]
        if mask is not None:
            distance = distance * mask
            if self.mask_normalize:
                distance = distance / mask.mean((1, 2, 3), keepdim=True).clamp(min=SMALLEST_AREA)
        return distance.mean((1, 2, 3)) * self.weight(noisy)

    def distance(self, error: Tensor, noisy: Noisy) -> Tensor:
        """Return the distance [B,C,h,w] that each number of the `error` [B,C,h,w] stands for."""
        if self.loss_type == "l2":
            return error.square()
        if self.loss_type == "l1":
            return error.abs()
        c = self.huber_threshold(noisy)[:, None, None, None]
        pseudo_huber = 2 * ((error.square() + c.square()).sqrt() - c)
        return c * pseudo_huber if self.loss_type == "huber" else pseudo_huber

    def huber_threshold(self, noisy: Noisy) -> Tensor:
        """Return where the loss turns from quadratic to linear [B]."""
        if self.huber_schedule == "constant":
            c = torch.full_like(noisy.snr, self.huber_c)
        elif self.huber_schedule == "exponential":
            c = (math.log(self.huber_c) * noisy.t.float() / 1000).exp()
        else:
            sigma = noisy.snr.clamp(min=SMALLEST_SNR).rsqrt()
            c = (1 - self.huber_c) / (1 + sigma).square() + self.huber_c
        return c * self.huber_scale

    def weight(self, noisy: Noisy) -> Tensor:
        """Return how much the noise level of each sample counts [B]."""
        snr, weight = noisy.snr.clamp(min=SMALLEST_SNR), torch.ones_like(noisy.snr)
        if self.min_snr_gamma:
            weight = weight * snr.clamp(max=self.min_snr_gamma) / (snr + 1 if noisy.velocity else snr)
        capped = snr.clamp(max=1000)
        if self.scale_v_pred_loss_like_noise_pred:
            weight = weight * capped / (capped + 1)
        if self.v_pred_like_loss:
            weight = weight * (1 + self.v_pred_like_loss * (capped + 1) / capped)
        if self.debiased_estimation_loss:
            weight = weight / (capped + 1 if noisy.velocity else capped.sqrt())
        return weight
