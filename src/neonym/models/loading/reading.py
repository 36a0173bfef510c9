"""Read weights as plain numbers, whatever form a file stores them in; tensor by tensor, when they are needed.

Layers that a file has fused share one scale, so numbers are made plain before their rows are split.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neonym.errors import ModelError
from neonym.models.loading.deferred import Deferred, InFile, deferred, ready
from neonym.models.loading.gguf_files import is_gguf, numbers_of, read_content
from neonym.models.loading.gguf_names import library_names
from neonym.models.loading.header import Shape
from neonym.models.loading.quantized_files import USE_OTHER, Plan, packed_state, plan_of
from neonym.models.loading.weight_files import is_safetensors, read_header, read_tensors
from neonym.models.quantization import Packed, scaled_fp8, unpack

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def read_weights(file: Path, starts: tuple[str, ...], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return the tensors whose names have one of the prefixes `starts`, as plain numbers, all of them at once.

    They are those of `weights_in_file`. Raises ModelError if the file is damaged, or if its numbers cannot be read.
    """
    return {name: ready(tensor) for name, tensor in weights_in_file(file, starts, dtype).items()}


def weights_in_file(file: Path, starts: tuple[str, ...], dtype: torch.dtype | None = None) -> dict[str, Deferred]:
    """Return the tensors whose names have one of the prefixes `starts`; their numbers are read when they are needed.

    What is stored in fewer bits becomes `dtype` (float32 if None); the others keep their type and stay in the
    memory-mapped file. Raises ModelError if the file is damaged, or if its numbers cannot be read.
    """
    small = dtype or torch.float32
    if is_gguf(file):
        return weights_in_gguf(file, starts, small)
    tensors = read_tensors(file, starts)
    plan = plan_of(file, read_header(file), starts) if is_safetensors(file) else None
    if plan is None:
        return {name: deferred(tuple(tensor.shape), in_memory(tensor)) for name, tensor in tensors.items()}

    @lru_cache(maxsize=1)  # layers that are split follow each other
    def read(name: str) -> Tensor:
        return plain(name, tensors, plan, small, file)

    def origin(name: str) -> InFile:
        own, scale = tensors[name], plan.scales.get(name)
        if name in plan.packed or scale is not None or own.dtype in FP8:
            kept = (lambda: scaled(name, own, tensors[scale] if scale else None, file)) if own.dtype in FP8 else None
            return InFile(lambda: read(name), False, kept)
        return in_memory(own)

    return {name: deferred(shape, origin(name)) for name, shape in plan.plain.items()}


def in_memory(tensor: Tensor) -> InFile:
    """Return the origin of a plain tensor, which is in memory or in a memory-mapped file."""
    return InFile(lambda: tensor, True)


def weights_in_gguf(file: Path, starts: tuple[str, ...], dtype: torch.dtype) -> dict[str, Deferred]:
    """Return the tensors of a GGUF file under their names in our libraries. Raises ModelError if it is damaged."""
    content = read_content(file).tensors
    names = library_names({name: own.shape for name, own in content.items()})

    @lru_cache(maxsize=1)  # layers that are split follow each other
    def read(name: str) -> Tensor:
        return torch.from_numpy(numbers_of(file, content[name])).to(dtype)

    def origin(name: str) -> InFile:
        return InFile(lambda: read(name), False)

    return {
        names[name]: deferred(own.shape, origin(name))
        for name, own in content.items()
        if names[name].startswith(starts)
    }


def plain(name: str, tensors: Mapping[str, Tensor], plan: Plan, dtype: torch.dtype, file: Path) -> Tensor:
    """Return one tensor as plain numbers."""
    tensor = tensors[name]
    if name in plan.packed:
        return unpacked(name, tensors, packed_state(file, plan.packed[name])[1], plan.plain[name]).to(dtype)
    if name in plan.scales:
        return unpack(scaled(name, tensor, tensors[plan.scales[name]], file), torch.float32).to(dtype)
    return tensor.to(dtype)


def scaled(name: str, weight: Tensor, scale: Tensor | None, file: Path) -> Packed:
    """Return weights in 8 bits with their scale: one for all, for each row, or for each block of a row.

    Raises ModelError if the scale does not fit.
    """
    factor = torch.ones(()) if scale is None else scale.float()
    try:
        return scaled_fp8(weight, factor)
    except ValueError as error:
        what = f"has scales of the shape {[*factor.shape]} for {name}, whose shape is {[*weight.shape]}"
        raise ModelError(what, str(file), USE_OTHER) from error


def unpacked(name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any], shape: Shape) -> Tensor:
    """Return weights that bitsandbytes has packed by two in a byte, float32: a level times the largest of a block."""
    codes, count = tensors[name].flatten(), prod(shape)
    levels = tensors[f"{name}.quant_map"].float()
    pairs = torch.stack((levels.repeat_interleave(16), levels.repeat(16)), 1)  # [256,2]: the first is in the high bits
    numbers = pairs.index_select(0, codes.int()).flatten()[:count]
    each, block = largest(name, tensors, state), int(state["blocksize"])
    whole = count // block * block
    numbers[:whole].view(-1, block).mul_(each[: count // block, None])
    numbers[whole:].mul_(each[count // block :])  # the last block may be shorter
    return numbers.reshape(shape)


def largest(name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Tensor:
    """Return the largest number of each block, float32, which may be quantised itself."""
    found = tensors[f"{name}.absmax"]
    if f"{name}.nested_absmax" not in tensors:
        return found.float()
    levels, outer = tensors[f"{name}.nested_quant_map"].float(), tensors[f"{name}.nested_absmax"].float()
    each = outer.repeat_interleave(int(state["nested_blocksize"]))[: found.numel()]
    return levels[found.long()] * each + float(state["nested_offset"])
