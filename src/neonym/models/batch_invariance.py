"""Make a network batch-invariant on a CPU: a sample gives the same bits in any batch and with any number of threads.

In exact arithmetic, the samples of a batch do not affect each other. On a CPU they do, in the last digits: torch has
separate routines for matrices with few rows, for a convolution of one small image, for a 1x1 convolution on one thread
and for norms of large images, and these sum in another order. Optimizers that divide by the size of the gradient
amplify the difference. Three types of layers are therefore made to use one routine always (with AVX2; docs/design.md
lists what AVX-512 still rounds differently).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALL = 20480  # numbers in one image, up to which torch convolves it with a separate routine
ROWS = 16  # matrix products whose row count is a multiple of this use one routine
SHARED = 1024  # pixels, from which threads share an image that is channels-last


class _SingleImageConv(torch.autograd.Function):
    """A convolution of one image with the routine for batches, from [1,I,H,W] to [1,O,h,w].

    Only `x` gets a gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: BatchInvariantConv2d) -> Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        how = (layer.padding, layer.stride, layer.dilation, layer.groups)
        return torch.mkldnn_convolution(x, layer.weight, layer.bias, *how)  # pyright: ignore

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layer, grad = ctx.layer, grads[0]
        if layer.stride == (1, 1) and layer.groups == 1:  # the gradient is also a convolution
            sides = zip(layer.dilation, layer.kernel_size, layer.padding, strict=True)
            around = [d * (k - 1) - int(p) for d, k, p in sides]
            return torch.mkldnn_convolution(
                grad, layer.transposed_kernel(), None, around, (1, 1), layer.dilation, 1
            ), None
        x = grad.new_empty(()).expand(2, *ctx.shape[1:])  # only its shape is read
        how = (layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups, (True, False, False))
        back = torch.ops.aten.convolution_backward(torch.cat([grad, grad]), x, layer.weight, None, *how)[0]
        return back[:1], None


class BatchInvariantLinear(nn.Linear):
    """A linear layer that pads its rows to a multiple of 16 if each row is a sample, as for timestep embeddings.

    Fewer rows are multiplied with another routine, whose rounding also depends on the memory layout of the weights.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim != 2:
            return F.linear(input, self.weight, self.bias)
        filled = F.pad(input, (0, 0, 0, -len(input) % ROWS))
        return F.linear(filled, self.weight, self.bias)[: len(input)]


class BatchInvariantConv2d(nn.Conv2d):
    """A convolution that uses one routine always: a matrix product if it is 1x1, else the one for batches of images."""

    cached_kernel: tuple[tuple[int, int], Tensor] | None = None  # address and version of the weights, kernel

    def forward(self, input: Tensor) -> Tensor:
        if self.kernel_size == self.stride == (1, 1) and self.padding == (0, 0) and self.groups == 1:
            pixels = input.movedim(1, 3)  # channels last
            return F.linear(pixels, self.weight.flatten(1), self.bias).movedim(3, 1)
        if len(input) > 1 or input.numel() > SMALL or not self.is_supported(input):
            return super().forward(input)
        return _SingleImageConv.apply(input, self)  # pyright: ignore[reportReturnType]

    def is_supported(self, input: Tensor) -> bool:
        """Return whether oneDNN can convolve `input`: it pads with zeros only, and torch may be built without it."""
        plain = input.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        return (
            plain and self.padding_mode == "zeros" and self.padding != "same" and torch.backends.mkldnn.is_available()
        )

    def transposed_kernel(self) -> Tensor:
        """Return the kernel flipped and transposed for gradients, [I,O,k,k]. It is cached until the weights change."""
        now = (self.weight.data_ptr(), self.weight._version)
        if self.cached_kernel is None or self.cached_kernel[0] != now:
            kernel = self.weight.detach().flip(2, 3).transpose(0, 1)
            self.cached_kernel = (now, kernel.contiguous(memory_format=torch.channels_last))
        return self.cached_kernel[1]


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
