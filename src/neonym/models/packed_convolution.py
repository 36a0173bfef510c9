"""Convolutions of oneDNN whose weights are rearranged once, for the forward and for the backward pass, on a CPU.

torch's own convolution rearranges the weights in every call. In the wide layers of a denoiser, which see few pixels,
that takes longer than the arithmetic: a layer of Stable Diffusion with 1280 channels and 8x8 pixels takes 60 ms on one
thread, and 17 ms with packed weights. Frozen weights are packed once, and the results are the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_ops: Any = torch.ops.mkldnn  # oneDNN's former name
AS_IS = ("none", [], "")  # no activation follows


@dataclass
class _Packed:
    """The packed weights of a layer, opaque tensors by the pass that needs them."""

    state: tuple[int, int]  # address and version of the weights that were packed
    tensors: dict[str, Tensor] = field(default_factory=dict)


_packed: WeakKeyDictionary[nn.Conv2d, _Packed] = WeakKeyDictionary()


def can_pack(layer: nn.Conv2d, x: Tensor) -> bool:
    """Return whether oneDNN can convolve `x` with packed weights: it pads with zeros only, and not every CPU has bf16."""
    return (
        torch.backends.mkldnn.is_available()
        and x.dtype == layer.weight.dtype
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and _ops._is_mkldnn_bf16_supported()))
        and x.device.type == "cpu"
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and not layer.weight.requires_grad
        and not torch.compiler.is_compiling()
    )


def packed_convolution(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """Return the convolution of `x` [B,I,H,W], as [B,O,h,w] with channels last. Only `x` gets a gradient."""
    return _PackedConvolution.apply(x, layer)  # pyright: ignore[reportReturnType]


class _PackedConvolution(torch.autograd.Function):
    """The function of `packed_convolution`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Conv2d) -> Tensor:
        ctx.layer, ctx.sides = layer, x.shape[2:]
        x = x.contiguous(memory_format=torch.channels_last)
        how = (layer.padding, layer.stride, layer.dilation, layer.groups)
        return _ops._convolution_pointwise(x, forward_weights(layer, x), layer.bias, *how, *AS_IS)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the transposed convolution of the gradient [B,O,h,w], which is that of the input, [B,I,H,W]."""
        layer, grad = ctx.layer, grads[0].contiguous(memory_format=torch.channels_last)
        beyond = uncovered(layer, ctx.sides, grad.shape[2:])
        how = (layer.padding, beyond, layer.stride, layer.dilation, layer.groups)
        return _ops._convolution_transpose_pointwise(
            grad, backward_weights(layer, grad, beyond), None, *how, *AS_IS
        ), None


def uncovered(layer: nn.Conv2d, sides: torch.Size, small: torch.Size) -> list[int]:
    """Return the pixels at the end of each side of the input that the last step of the kernel does not reach.

    `sides` are those of the input (H,W), and `small` those of the output (h,w).
    """
    all_ = zip(sides, small, layer.stride, layer.padding, layer.dilation, layer.kernel_size, strict=True)
    return [side - ((n - 1) * step - 2 * int(pad) + d * (k - 1) + 1) for side, n, step, pad, d, k in all_]


def forward_weights(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Return the packed weights of a layer for inputs like `x` [B,I,H,W]."""
    how = (layer.padding, layer.stride, layer.dilation, layer.groups)
    return packed_once(layer, "forward", lambda w: _ops._reorder_convolution_weight(w, *how, x.shape))


def backward_weights(layer: nn.Conv2d, grad: Tensor, beyond: list[int]) -> Tensor:
    """Return the packed weights of a layer's transposed convolution for gradients like `grad` [B,O,h,w]."""
    how = (layer.padding, beyond, layer.stride, layer.dilation, layer.groups)
    return packed_once(layer, "backward", lambda w: _ops._reorder_convolution_transpose_weight(w, *how, grad.shape))


def packed_once(layer: nn.Conv2d, kind: str, pack: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a layer's packed weights for a pass, which are packed again only if the weights have changed."""
    state = (layer.weight.data_ptr(), layer.weight._version)
    found = _packed.get(layer)
    if found is None or found.state != state:
        found = _packed[layer] = _Packed(state)
    if kind not in found.tensors:
        found.tensors[kind] = pack(layer.weight.detach())
    return found.tensors[kind]
