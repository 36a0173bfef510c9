"""The weights of a frozen network in 8 bits: a quarter of float32's memory, half of fp16's, a little less exact.

A layer's weight is made whole where it is used and forgotten again, in the backward pass too, so that no whole copy of
the network ever lies in memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from neonym.models.batch_invariance import AlikeConv, AlikeLinear

SMALL = torch.float8_e4m3fn
LARGEST = torch.finfo(SMALL).max
WHOLE = ("conv_in", "conv_out", "time_embedding", "add_embedding")  # little memory, much influence: these stay


def whole(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype) * scale.to(dtype)


class _Linear(torch.autograd.Function):
    """A linear layer with 8-bit weights, [...,I] -> [...,O]; only `x` has a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, scale)
        ctx.dtype = x.dtype
        return F.linear(x, whole(weight, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale = ctx.saved_tensors
        grad = grads[0]
        return (grad @ whole(weight, scale, grad.dtype)).to(ctx.dtype), None, None, None


class _Conv(torch.autograd.Function):
    """A convolution with 8-bit weights, [B,I,H,W] -> [B,O,h,w]; only `x` has a gradient. `how`: stride, padding, dilation, groups."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, how: tuple) -> Tensor:
        ctx.save_for_backward(weight, scale)
        ctx.dtype, ctx.shape, ctx.how = x.dtype, x.shape, how
        return F.conv2d(x, whole(weight, scale, x.dtype), bias, *how)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale = ctx.saved_tensors
        grad = grads[0]
        back = conv2d_input(ctx.shape, whole(weight, scale, grad.dtype), grad, *ctx.how)
        return back.to(ctx.dtype), None, None, None, None


class Linear8(nn.Linear):
    scale: Tensor

    def forward(self, input: Tensor) -> Tensor:
        return _Linear.apply(input, self.weight, self.scale, self.bias)  # pyright: ignore[reportReturnType]


class Conv8(nn.Conv2d):
    scale: Tensor

    def forward(self, input: Tensor) -> Tensor:
        how = (self.stride, self.padding, self.dilation, self.groups)
        return _Conv.apply(input, self.weight, self.scale, self.bias, how)  # pyright: ignore[reportReturnType]


KINDS: dict[type, type] = {nn.Linear: Linear8, nn.Conv2d: Conv8, AlikeLinear: Linear8, AlikeConv: Conv8}


@torch.no_grad()
def keep_in_eight_bits(network: nn.Module) -> None:
    """Turn the weights of its linear layers and convolutions into 8-bit numbers with one scale for each layer."""
    for name, layer in network.named_modules():
        if not isinstance(layer, (nn.Linear, nn.Conv2d)) or type(layer) not in KINDS or name.startswith(WHOLE):
            continue
        scale = layer.weight.abs().amax().float().clamp(min=1e-12) / LARGEST
        small = (layer.weight.float() / scale).to(SMALL)
        layer.weight = nn.Parameter(small, requires_grad=False)
        layer.register_buffer("scale", scale)
        layer.__class__ = KINDS[type(layer)]
