"""Keep the weights of a frozen network in 8 bits: a quarter of float32's memory, half of fp16's, slightly less exact.

The weights of a layer are dequantized where they are used and then dropped, in the backward pass too, so there is never
a dequantized copy of the whole network in memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from neonym.models.batch_invariance import BatchInvariantConv2d, BatchInvariantLinear

DTYPE = torch.float8_e4m3fn
LARGEST = torch.finfo(DTYPE).max


def dequantized(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 8-bit weights in the precision `dtype`."""
    return weight.to(dtype) * scale.to(dtype)


class _Linear(torch.autograd.Function):
    """The function of a linear layer with 8-bit weights, from [...,I] to [...,O]. Only `x` gets a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, scale)
        ctx.dtype = x.dtype
        return F.linear(x, dequantized(weight, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale = ctx.saved_tensors
        grad = grads[0]
        return (grad @ dequantized(weight, scale, grad.dtype)).to(ctx.dtype), None, None, None


class _Conv(torch.autograd.Function):
    """A 2D convolution with 8-bit weights, from [B,I,H,W] to [B,O,h,w]. Only `x` gets a gradient.

    `options` are stride, padding, dilation and groups.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, options: tuple) -> Tensor:
        ctx.save_for_backward(weight, scale)
        ctx.dtype, ctx.shape, ctx.options = x.dtype, x.shape, options
        return F.conv2d(x, dequantized(weight, scale, x.dtype), bias, *options)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale = ctx.saved_tensors
        grad = grads[0]
        back = conv2d_input(ctx.shape, dequantized(weight, scale, grad.dtype), grad, *ctx.options)
        return back.to(ctx.dtype), None, None, None, None


class Linear8(nn.Linear):
    """A linear layer whose weights are kept in 8 bits."""

    scale: Tensor

    def forward(self, input: Tensor) -> Tensor:
        return _Linear.apply(input, self.weight, self.scale, self.bias)  # pyright: ignore[reportReturnType]


class Conv8(nn.Conv2d):
    """A 2D convolution whose weights are kept in 8 bits."""

    scale: Tensor

    def forward(self, input: Tensor) -> Tensor:
        options = (self.stride, self.padding, self.dilation, self.groups)
        return _Conv.apply(input, self.weight, self.scale, self.bias, options)  # pyright: ignore[reportReturnType]


LAYERS: dict[type, type] = {
    nn.Linear: Linear8,
    nn.Conv2d: Conv8,
    BatchInvariantLinear: Linear8,
    BatchInvariantConv2d: Conv8,
}


@torch.no_grad()
def quantize_to_8_bits(network: nn.Module, unchanged: tuple[str, ...] = ()) -> None:
    """Convert the weights of linear layers and convolutions to 8-bit numbers, in place, with one scale per layer.

    Layers whose names begin with one of `unchanged` stay as they are.
    """
    for name, layer in network.named_modules():
        if not isinstance(layer, (nn.Linear, nn.Conv2d)) or type(layer) not in LAYERS or name.startswith(unchanged):
            continue
        scale = layer.weight.abs().amax().float().clamp(min=1e-12) / LARGEST
        small = (layer.weight.float() / scale).to(DTYPE)
        layer.weight = nn.Parameter(small, requires_grad=False)
        layer.register_buffer("scale", scale)
        layer.__class__ = LAYERS[type(layer)]
