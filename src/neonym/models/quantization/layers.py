"""Linear layers and convolutions with quantized weights. Only their inputs get gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from neonym.models.batch_invariance import BatchInvariantConv2d, BatchInvariantLinear
from neonym.models.quantization.schemes import Packed, pack, unpack
from neonym.models.storage import Scheme, SchemeRules

TIED = ("lm_head",)  # output layers that share their weights with a token table


class _Linear(torch.autograd.Function):
    """The function of a linear layer with quantized weights, from [...,I] to [...,O]. Only `x` gets a gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, scheme: Scheme, numbers: Tensor, scale: Tensor, shape: tuple
    ) -> Tensor:
        ctx.save_for_backward(numbers, scale)
        ctx.scheme, ctx.weight_shape = scheme, shape
        return F.linear(x, unpack(Packed(scheme, numbers, scale, shape), x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        numbers, scale = ctx.saved_tensors
        weight = Packed(ctx.scheme, numbers, scale, ctx.weight_shape)
        grad = grads[0]
        return grad @ unpack(weight, grad.dtype), None, None, None, None, None


class _Conv(torch.autograd.Function):
    """A 2D convolution with quantized weights, from [B,I,H,W] to [B,O,h,w]. Only `x` gets a gradient.

    `options` are stride, padding, dilation and groups.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, scheme: Scheme, numbers: Tensor, scale: Tensor, shape: tuple,
        options: tuple,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(numbers, scale)
        ctx.scheme, ctx.weight_shape, ctx.shape, ctx.options = scheme, shape, x.shape, options
        return F.conv2d(x, unpack(Packed(scheme, numbers, scale, shape), x.dtype), bias, *options)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        numbers, scale = ctx.saved_tensors
        weight = Packed(ctx.scheme, numbers, scale, ctx.weight_shape)
        grad = grads[0]
        back = conv2d_input(ctx.shape, unpack(weight, grad.dtype), grad, *ctx.options)
        return back, None, None, None, None, None, None


class Quantized(nn.Module):
    """The base of layers with quantized weights, which have no `weight`."""

    scheme: Scheme
    numbers: Tensor
    scale: Tensor
    weight_shape: tuple[int, ...]

    @property
    def packed(self) -> Packed:
        """The quantized weights."""
        return Packed(self.scheme, self.numbers, self.scale, self.weight_shape)


class QuantizedLinear(Quantized, nn.Linear):
    """A linear layer with quantized weights."""

    def forward(self, input: Tensor) -> Tensor:
        return _Linear.apply(input, self.bias, *self.packed)  # pyright: ignore[reportReturnType]


class QuantizedConv2d(Quantized, nn.Conv2d):
    """A 2D convolution with quantized weights."""

    def forward(self, input: Tensor) -> Tensor:
        options = (self.stride, self.padding, self.dilation, self.groups)
        return _Conv.apply(input, self.bias, *self.packed, options)  # pyright: ignore[reportReturnType]


LAYERS: dict[type, type] = {
    nn.Linear: QuantizedLinear,
    nn.Conv2d: QuantizedConv2d,
    BatchInvariantLinear: QuantizedLinear,
    BatchInvariantConv2d: QuantizedConv2d,
}
Quantizable = nn.Linear | nn.Conv2d


def layers_to_quantize(network: nn.Module, rules: SchemeRules) -> dict[str, tuple[Quantizable, Scheme]]:
    """Return the layers whose weights are to be quantized, each with its scheme, by name."""
    found = {}
    for name, layer in network.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and type(layer) in LAYERS and not name.endswith(TIED):
            scheme = rules.scheme_of(name)
            if scheme is not None:
                found[name] = (layer, scheme)
    return found


def set_quantized(layer: Quantizable, weight: Packed) -> None:
    """Replace the weights of a layer by quantized ones, in place.

    They are buffers outside the state dict, so that a network without its other weights can still be given those.
    """
    layer.weight = None  # pyright: ignore[reportAttributeAccessIssue]
    layer.register_buffer("numbers", weight.numbers, persistent=False)
    layer.register_buffer("scale", weight.scale, persistent=False)
    layer.__class__ = LAYERS[type(layer)]
    layer.scheme, layer.weight_shape = weight.scheme, weight.shape  # pyright: ignore


def quantize(network: nn.Module, rules: SchemeRules) -> None:
    """Quantize the weights of linear layers and convolutions of a network that is in memory, in place."""
    for layer, scheme in layers_to_quantize(network, rules).values():
        set_quantized(layer, pack(layer.weight, scheme))
