"""Make a network batch-invariant on a CPU: a sample gives the same bits in any batch and with any number of threads.

In exact arithmetic, the samples of a batch do not affect each other. On a CPU they do, in the last digits: torch has
separate routines for matrices with few rows, for a convolution of one small image, for a 1x1 convolution on one thread
and for norms of large images, and these sum in another order. Optimizers that divide by the size of the gradient
amplify the difference. Three types of layers are therefore made to use one routine always, with AVX2 and with AVX-512.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neonym.models.packed_convolution import can_pack, packed_convolution

ROWS = 16  # matrix products whose row count is a multiple of this use one routine
SHARED = 1024  # pixels, from which threads share an image that is channels-last


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the linear map [B,...,O] of `x` [B,...,I], with rows padded to a multiple of 16 if a sample has few.

    Fewer rows are multiplied with another routine, whose rounding also depends on the memory layout of the weights.
    """
    rows = x.flatten(0, -2)
    if len(rows) >= ROWS * len(x):
        return F.linear(x, weight, bias)
    filled = F.pad(rows, (0, 0, 0, -len(rows) % ROWS))
    return F.linear(filled, weight, bias)[: len(rows)].unflatten(0, x.shape[:-1])


class BatchInvariantLinear(nn.Linear):
    """A linear layer whose samples may have few rows, such as those of a timestep embedding."""

    def forward(self, input: Tensor) -> Tensor:
        return product(input, self.weight, self.bias)


class BatchInvariantConv2d(nn.Conv2d):
    """A convolution that uses one routine always: a matrix product if it is 1x1, else oneDNN's with packed weights."""

    def forward(self, input: Tensor) -> Tensor:
        if self.kernel_size == self.stride == (1, 1) and self.padding == (0, 0) and self.groups == 1:
            pixels = input.movedim(1, 3)  # channels last
            return product(pixels, self.weight.flatten(1), self.bias).movedim(3, 1)
        return packed_convolution(input, self) if can_pack(self, input) else super().forward(input)


class BatchInvariantGroupNorm(nn.GroupNorm):
    """A group norm that makes large images contiguous: of channels-last images, threads sum parts separately."""

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim != 4 or input.shape[2] * input.shape[3] < SHARED:
            return super().forward(input)
        return super().forward(input.contiguous()).contiguous(memory_format=torch.channels_last)


BATCH_INVARIANT_LAYERS: dict[type, type] = {
    nn.Linear: BatchInvariantLinear,
    nn.Conv2d: BatchInvariantConv2d,
    nn.GroupNorm: BatchInvariantGroupNorm,
}


def make_batch_invariant(network: nn.Module) -> None:
    """Make the layers of a network batch-invariant, in place, except in a VAE's decoder, which training does not use."""
    for name, layer in network.named_modules():
        if not name.startswith("decoder."):
            layer.__class__ = BATCH_INVARIANT_LAYERS.get(type(layer), type(layer))
