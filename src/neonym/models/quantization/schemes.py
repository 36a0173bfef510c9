"""Weights in few bits: 8-bit floats and integers with a scale for each row, 4-bit floats in blocks of 64.

`fp8` keeps the relative precision of each number (4 significant bits), `int8` divides the range of a row evenly, `nf4`
(Dettmers et al. 2023, QLoRA) has 16 values that suit normally distributed weights.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from neonym.extras import is_installed
from neonym.models.storage import Scheme

FP8 = torch.float8_e4m3fn
LARGEST: dict[Scheme, float] = {"fp8": torch.finfo(FP8).max, "int8": 127.0}
BLOCK = 64  # weights that share a scale in nf4
AT_ONCE = BLOCK * 2**18  # weights that are packed at once, which bounds the memory for intermediate results
NF4 = (  # QLoRA, appendix E: quantiles of a normal distribution, with an exact zero
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


class Packed(NamedTuple):
    """Quantized weights.

    `numbers` has the shape of the weights, or [n/2] bytes in nf4. `scale` broadcasts to it: [], [1], [O,1,...] for
    rows, [O,blocks,1] for blocks of a row; in nf4 it is [n/64,1].
    """

    scheme: Scheme
    numbers: Tensor
    scale: Tensor
    shape: tuple[int, ...]

    def to(self, device: torch.device) -> Packed:
        """Return the weights on a device."""
        return self._replace(numbers=self.numbers.to(device), scale=self.scale.to(device))


@torch.no_grad()
def pack(weight: Tensor, scheme: Scheme) -> Packed:
    """Return quantized weights, on the device of `weight` [O,...]."""
    parts = pack_nf4(weight) if scheme == "nf4" else pack_rows(weight, scheme)
    return Packed(scheme, *parts, tuple(weight.shape))


def scaled_fp8(weight: Tensor, scale: Tensor) -> Packed:
    """Return the fp8 weights of a file with the file's own scales, unchanged.

    `scale` has one number for all weights, [O,1,...] for rows or [O,blocks,1] for blocks of a row. Raises ValueError
    for other shapes.
    """
    rows = weight.shape[0]
    by_rows = scale.ndim == weight.ndim and scale.shape[0] == rows and scale[0].numel() == 1
    by_blocks = (
        scale.ndim == 3 and weight.ndim == 2 and scale.shape[::2] == (rows, 1) and weight.shape[1] % scale.shape[1] == 0
    )
    if scale.numel() != 1 and not by_rows and not by_blocks:
        raise ValueError(f"scales of shape {[*scale.shape]} do not fit weights of shape {[*weight.shape]}")
    return Packed("fp8", weight, scale.reshape(()) if scale.numel() == 1 else scale, tuple(weight.shape))


def unpack(weight: Packed, dtype: torch.dtype) -> Tensor:
    """Return the dequantized weights in the precision `dtype`. Scales are applied before the only rounding."""
    if weight.scheme == "nf4":
        return unpack_nf4(weight, dtype)
    values, scale = weight.numbers.to(dtype), weight.scale  # both schemes' numbers are exact in any dtype
    if scale.ndim > values.ndim:
        return values.unflatten(1, (scale.shape[1], -1)).mul_(scale).flatten(1)
    return values.mul_(scale)


def pack_rows(weight: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Return weights [O,...] in 8 bits, and their scales, float32 [O,1,...]."""
    inner = tuple(range(1, weight.ndim))
    scale = weight.abs().amax(inner, keepdim=True).float().clamp(min=1e-12) / LARGEST[scheme]
    parts = []
    for rows, scales in zip(*(t.split(max(1, AT_ONCE // weight[0].numel())) for t in (weight, scale)), strict=True):
        exact = rows.float() / scales
        parts.append(exact.to(FP8) if scheme == "fp8" else exact.round_().to(torch.int8))
    return torch.cat(parts), scale


def pack_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights of n numbers in 4 bits, uint8 [n/2], and their scales, bfloat16 [n/64,1].

    The first of two numbers has the high bits. The last block is padded with zeros.
    """
    values = torch.tensor(NF4, device=weight.device)
    middles = (values[1:] + values[:-1]) / 2
    numbers, scales = [], []
    for part in weight.flatten().split(AT_ONCE):
        blocks = F.pad(part, (0, -len(part) % BLOCK)).view(-1, BLOCK).float()
        scale = blocks.abs().amax(1, keepdim=True).clamp(min=1e-12).bfloat16()
        codes = torch.bucketize(blocks / scale.float(), middles, out_int32=True).to(torch.uint8)  # [n/64,64]
        numbers.append((codes[:, ::2] << 4 | codes[:, 1::2]).flatten())
        scales.append(scale)
    return torch.cat(numbers), torch.cat(scales)


def unpack_nf4(weight: Packed, dtype: torch.dtype) -> Tensor:
    """Return the dequantized weights. On CUDA, this is one kernel of bitsandbytes if it is installed."""
    count = torch.Size(weight.shape).numel()
    if not torch.compiler.is_compiling() and weight.numbers.is_cuda and has_kernels():
        return unpacked_by_bitsandbytes(weight, dtype).flatten()[:count].view(weight.shape)
    find = value_pairs if torch.compiler.is_compiling() else cached_value_pairs
    pairs = find(dtype, weight.numbers.device).index_select(0, weight.numbers.int())  # [n/2]
    blocks = pairs.view(dtype).view(-1, BLOCK).mul_(weight.scale)
    return blocks.flatten()[:count].view(weight.shape)


def value_pairs(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the two values of each byte, [256]: two numbers of `dtype` as one integer, so that one look-up finds both.

    The integers have twice the size of `dtype`.
    """
    values = torch.tensor(NF4, dtype=dtype, device=device)
    pairs = torch.stack([values.repeat_interleave(16), values.repeat(16)], dim=1)  # [256,2]
    return pairs.view({2: torch.int32, 4: torch.int64}[dtype.itemsize]).flatten()


cached_value_pairs = lru_cache(maxsize=8)(value_pairs)


@lru_cache(maxsize=1)
def has_kernels() -> bool:
    """Return whether bitsandbytes is installed."""
    return is_installed("bitsandbytes")


def unpacked_by_bitsandbytes(weight: Packed, dtype: torch.dtype) -> Tensor:
    """Return dequantized weights [n] with the kernel of bitsandbytes, which reads the same layout."""
    from bitsandbytes.functional import QuantState, dequantize_4bit  # pyright: ignore[reportMissingImports]

    shape = torch.Size((len(weight.scale) * BLOCK,))
    absmax = weight.scale.float().flatten()
    state = QuantState(absmax, shape=shape, blocksize=BLOCK, quant_type="nf4", dtype=dtype)
    return dequantize_4bit(weight.numbers[:, None], state)
