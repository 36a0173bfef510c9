"""The objective: the distance of a prediction from its target, and the loss weight of each sample."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from neonym.types import Noisy

SMALLEST_AREA = 1e-3  # share of an image: avoids a division by zero for an empty mask
SMALLEST_SNR = 1e-8  # with zero terminal SNR, the last timestep has an SNR of 0


@dataclass(frozen=True)
class Objective:
    """The loss and its weights, named after sd-scripts' flags. The default is the MSE of Ho et al. 2020, eq. 14."""

    loss_type: Literal["l2", "l1", "huber", "smooth_l1"] = "l2"
    huber_schedule: Literal["constant", "exponential", "snr"] = "snr"
    huber_c: float = 0.1
    huber_scale: float = 1.0
    min_snr_gamma: float | None = None  # Hang et al. 2023
    scale_v_pred_loss_like_noise_pred: bool = False
    v_pred_like_loss: float | None = None
    debiased_estimation_loss: bool = False  # Yu et al. 2023
    model_prediction_type: Literal["raw", "additive", "sigma_scaled"] = "raw"  # of flows
    weighting_scheme: str = "none"  # of flows: `sigma_sqrt` and `cosmap` are loss weights
    mask_normalize: bool = False  # not in sd-scripts: average a masked loss over the masked area, not the image

    def loss(self, prediction: Tensor, noisy: Noisy, mask: Tensor | None = None) -> Tensor:
        """Return the loss of each sample, float32 [B], of a `prediction` [B,C,h,w].

        The distance is multiplied by the `mask` [B,1,h,w], averaged over channels and positions, and multiplied by the
        loss weight of the noise level.
        """
        error = prediction.float() - noisy.target.float()  # [B,C,h,w]
        if self.model_prediction_type == "sigma_scaled":  # x_t - sigma v is compared with x_0
            error = -sigma_of(noisy)[:, None, None, None] * error
        distance = self.distance(error, noisy)  # [B,C,h,w]
        if mask is not None:
            distance = distance * mask
            if self.mask_normalize:
                distance = distance / mask.mean((1, 2, 3), keepdim=True).clamp(min=SMALLEST_AREA)
        return distance.mean((1, 2, 3)) * self.weight(noisy)

    def distance(self, error: Tensor, noisy: Noisy) -> Tensor:
        """Return the elementwise distance [B,C,h,w] for the `error` [B,C,h,w]: squared, absolute or pseudo-Huber."""
        if self.loss_type == "l2":
            return error.square()
        if self.loss_type == "l1":
            return error.abs()
        c = self.huber_threshold(noisy)[:, None, None, None]
        pseudo_huber = 2 * ((error.square() + c.square()).sqrt() - c)
        return c * pseudo_huber if self.loss_type == "huber" else pseudo_huber

    def huber_threshold(self, noisy: Noisy) -> Tensor:
        """Return the threshold [B] at which the pseudo-Huber loss turns from quadratic to linear."""
        if self.huber_schedule == "constant":
            c = torch.full_like(noisy.snr, self.huber_c)
        elif self.huber_schedule == "exponential":
            c = (math.log(self.huber_c) * noisy.t.float() / 1000).exp()
        else:
            sigma = noisy.snr.clamp(min=SMALLEST_SNR).rsqrt()
            c = (1 - self.huber_c) / (1 + sigma).square() + self.huber_c
        return c * self.huber_scale

    def weight(self, noisy: Noisy) -> Tensor:
        """Return the loss weight [B] of each sample's noise level."""
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
        return weight * self.flow_weight(noisy)

    def flow_weight(self, noisy: Noisy) -> Tensor | float:
        """Return the loss weight [B] of the weighting scheme of a flow, or 1.

        As in sd-scripts, it goes with the prediction type `sigma_scaled`.
        """
        sigma = sigma_of(noisy)
        if self.model_prediction_type != "sigma_scaled":
            return 1.0
        if self.weighting_scheme == "sigma_sqrt":
            return sigma**-2
        return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2)) if self.weighting_scheme == "cosmap" else 1.0


def sigma_of(noisy: Noisy) -> Tensor:
    """Return sigma [B] of the noised latents of a flow."""
    return noisy.t / 1000
