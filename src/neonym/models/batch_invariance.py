"""What a network makes of a sample on a CPU, whatever the samples beside it and the number of threads.

In exact arithmetic nothing passes from one sample of a batch to another. On a CPU it does in the last digits: a matrix of
few rows, a convolution of one small image or a 1x1 one on one thread, and norms of large images go to other routines,
which add up in another order. Optimizers that divide by the gradient's size blow that up. Three kinds of layers are made
to take one way always (with AVX2; what AVX-512 still rounds otherwise stands in docs/design.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALL = 20480  # numbers of one image, up to which torch has another routine for it
ROWS = 16  # from which on, and at multiples of which, a product of matrices takes one way
SHARED = 1024  # pixels, from which on threads share an image with channels last


class _ConvOfOne(torch.autograd.Function):
    """A convolution of one image by a batch's routine, [1,I,H,W] -> [1,O,h,w]; only `x` has a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: AlikeConv) -> Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        how = (layer.padding, layer.stride, layer.dilation, layer.groups)
        return torch.mkldnn_convolution(x, layer.weight, layer.bias, *how)  # pyright: ignore

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layer, grad = ctx.layer, grads[0]
        if layer.stride == (1, 1) and layer.groups == 1:  # the gradient is a convolution too, by the same routine
            sides = zip(layer.dilation, layer.kernel_size, layer.padding, strict=True)
            around = [d * (k - 1) - int(p) for d, k, p in sides]
            return torch.mkldnn_convolution(grad, layer.turned(), None, around, (1, 1), layer.dilation, 1), None
        x = grad.new_empty(()).expand(2, *ctx.shape[1:])  # not read
        how = (layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups, (True, False, False))
        back = torch.ops.aten.convolution_backward(torch.cat([grad, grad]), x, layer.weight, None, *how)[0]
        return back[:1], None


class AlikeLinear(nn.Linear):
    """Rows that are samples, as those of timesteps, go sixteen by sixteen: few are multiplied by another routine, which
    also adds up otherwise where weights lie otherwise in memory.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim != 2:
            return F.linear(input, self.weight, self.bias)
        filled = F.pad(input, (0, 0, 0, -len(input) % ROWS))
        return F.linear(filled, self.weight, self.bias)[: len(input)]


class AlikeConv(nn.Conv2d):
    """1x1: a product of matrices. One small image: by the routine that torch takes for several, or for a large one."""

    kept: tuple[tuple[int, int], Tensor] | None = None

    def forward(self, input: Tensor) -> Tensor:
        if self.kernel_size == self.stride == (1, 1) and self.padding == (0, 0) and self.groups == 1:
            pixels = input.movedim(1, 3)  # as they lie with channels last
            return F.linear(pixels, self.weight.flatten(1), self.bias).movedim(3, 1)
        if len(input) > 1 or input.numel() > SMALL or not self.has_routine(input):
            return super().forward(input)
        return _ConvOfOne.apply(input, self)  # pyright: ignore[reportReturnType]

    def has_routine(self, input: Tensor) -> bool:
        """Return whether oneDNN has a routine for it: torch may be built without, and it pads with zeros only."""
        plain = input.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        return (
            plain and self.padding_mode == "zeros" and self.padding != "same" and torch.backends.mkldnn.is_available()
        )

    def turned(self) -> Tensor:
        """Return the kernel turned round for gradients, [O,I,k,k] -> [I,O,k,k]; it is kept until the weights are changed."""
        now = (self.weight.data_ptr(), self.weight._version)
        if self.kept is None or self.kept[0] != now:
            turned = self.weight.detach().flip(2, 3).transpose(0, 1)
            self.kept = (now, turned.contiguous(memory_format=torch.channels_last))
        return self.kept[1]


class AlikeGroupNorm(nn.GroupNorm):
    """Large images are laid plane by plane for it: with channels last, threads share them out and add up what each found."""

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim != 4 or input.shape[2] * input.shape[3] < SHARED:
            return super().forward(input)
        return super().forward(input.contiguous()).contiguous(memory_format=torch.channels_last)


KINDS: dict[type, type] = {nn.Linear: AlikeLinear, nn.Conv2d: AlikeConv, nn.GroupNorm: AlikeGroupNorm}


def make_alike(network: nn.Module) -> None:
    """Make every layer of these kinds batch-invariant, but those of a VAE's decoder: nothing is learned from what that shows."""
    for name, layer in network.named_modules():
        if not name.startswith("decoder."):
            layer.__class__ = KINDS.get(type(layer), type(layer))
