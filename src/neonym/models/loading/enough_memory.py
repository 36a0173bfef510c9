"""Find out from the headers of files whether memory can hold a model. No torch is needed."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from math import prod
from pathlib import Path

import psutil

from neonym.errors import ModelError, Problem
from neonym.models.loading.folder import Weights
from neonym.models.loading.header import Shape
from neonym.models.loading.quantized_files import is_quantized_file, plan_of
from neonym.models.loading.vocabulary_spread import TOKEN_TABLES
from neonym.models.loading.weight_files import read_header, stays_on_disk
from neonym.models.source import ModelSource
from neonym.models.storage import BYTES, Scheme

GB = 1e9
FLOAT32 = 4  # bytes; the VAE computes in it, and numbers are made plain in it
NOT_READ = ("lm_head.", "decoder.")  # parts of language models and of T5 that are not loaded
BLOCK = re.compile(r"(?:^|\.)layers\.(\d+)\.")
FIX = "Close other programs, use a lower precision (--base_precision=fp8 or nf4; in generate --bf16) or a smaller model"
GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # of NVIDIA, of Windows' subsystem for Linux, of AMD


def check_memory(source: ModelSource, on_cpu: bool, width: int, device_free: float | None = None) -> None:
    """Raise ModelError if memory cannot hold what is read of a model, by `memory_problem`."""
    problem = memory_problem(source, on_cpu, width, device_free)
    if problem is not None:
        raise ModelError(problem.what, problem.where, problem.fix)


def memory_problem(
    source: ModelSource, on_cpu: bool, width: int, device_free: float | None = None
) -> Problem | None:  # fmt: skip
    """Return what is wrong if memory cannot hold a model; None if it can, or if nobody knows how much is free.

    `width` is the bytes of an unquantized number, `device_free` the free bytes of another device than the CPU. Weights
    for it pass through the memory of the CPU one by one. Encoders that wait stay there, and so do blocks to swap, which
    are not counted.
    """
    shapes = {part: plain_shapes(weights) for part, weights in source.weights.items()}
    parts = {part: kept(source, part, width, own) for part, own in shapes.items()}
    passing = max((passes(source.weights[part], width, own) for part, own in shapes.items()), default=0.0)
    total, largest = sum(parts.values()), max(parts, key=lambda part: parts[part], default="")
    share = f", {parts.get(largest, 0) / GB:.1f} GB of them for its {largest}"
    total += packed(source, width, shapes) if on_cpu else 0.0
    waiting = total if on_cpu else sum(parts.get(part, 0.0) for part in source.storage.waiting)
    device = 0.0 if source.storage.blocks_to_swap else total - waiting
    places = (
        (waiting + passing, free_memory(), "of this machine's memory", share if on_cpu else " on their way to the GPU"),
        (device, device_free, "of the GPU's memory", share),
    )
    for need, free, place, why in places:
        if free is not None and need > free:
            what = f"needs about {need / GB:.1f} GB {place} for its weights{why}, but only {free / GB:.1f} GB are free"
            return Problem("error", what, source.name, FIX)
    return None


def free_memory() -> float | None:
    """Return the free bytes of the CPU's memory, swap included, or None if the system does not tell."""
    try:
        return float(psutil.virtual_memory().available + psutil.swap_memory().free)
    except (OSError, RuntimeError, NotImplementedError, psutil.Error):
        return None


def may_have_gpu() -> bool:
    """Return whether this machine may have a GPU with memory of its own: a driver is there, and no variable hides it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1") or sys.platform == "darwin":
        return False
    if sys.platform == "win32":
        return (Path(os.environ.get("SYSTEMROOT", "C:/Windows")) / "System32" / "nvcuda.dll").exists()
    return any(map(os.path.exists, GPU_DRIVERS))


def kept(source: ModelSource, part: str, width: int, shapes: Mapping[str, Shape]) -> float:
    """Return the bytes of a part's weights once they are loaded. Small layers that are never quantized count as if."""
    scheme, wide = scheme_of_part(source, part), FLOAT32 if part == "vae" else width
    return sum(
        prod(shape) * (BYTES[scheme] if scheme and is_layer(name, shape) else wide)
        for name, shape in shapes.items()
        if is_read(source, part, name)
    )


def packed(source: ModelSource, width: int, shapes: Mapping[str, Mapping[str, Shape]]) -> float:
    """Return the bytes of a denoiser's convolutions as they are packed on a CPU, for both passes of a training step."""
    if source.storage.denoiser:
        return 0.0
    part = shapes.get(source.family.denoiser.part, {})
    return 2.0 * width * sum(prod(shape) for shape in part.values() if len(shape) == 4 and prod(shape[2:]) > 1)


def passes(weights: Weights, width: int, shapes: Mapping[str, Shape]) -> float:
    """Return the bytes that a part takes besides while it is read: whole files, or the tensor that is made plain."""
    whole = sum(file.stat().st_size for file in weights.files if not stays_on_disk(file))
    is_converted = any(is_quantized_file(file) for file in weights.files if stays_on_disk(file))
    return whole + (FLOAT32 + width) * max(map(prod, shapes.values()), default=0) * is_converted


def scheme_of_part(source: ModelSource, part: str) -> Scheme | None:
    """Return the scheme of the layers of a part; None if they are not quantized."""
    if part == source.family.denoiser.part:
        return source.storage.denoiser
    is_large = any(encoder.name == part and encoder.is_large for encoder in source.encoder_specs)
    return source.storage.encoders if is_large else None


def is_layer(name: str, shape: Shape) -> bool:
    """Return whether a tensor has the weights of a layer that may be quantized: no token table, bias or norm."""
    return len(shape) in (2, 4) and name.endswith(".weight") and not name.endswith(TOKEN_TABLES)


def is_read(source: ModelSource, part: str, name: str) -> bool:
    """Return whether a tensor of a file is loaded: not what lies behind the last block of an encoder that is read."""
    spec = next((spec for spec in source.encoder_specs if spec.name == part), None)
    if spec is None:
        return True
    block, own = BLOCK.search(name), name.removeprefix(source.weights[part].start)
    is_behind = block is not None and 0 < (spec.blocks_read or 0) <= int(block[1])
    return not is_behind and not own.startswith(NOT_READ)


def plain_shapes(weights: Weights) -> dict[str, Shape]:
    """Return the shapes of a part's tensors by name. Those of a pickle in the old serialisation are not known."""
    mapped = filter(stays_on_disk, weights.files)
    plans = (plan_of(file, read_header(file), (weights.start,)) for file in mapped)
    return {name: shape for plan in plans for name, shape in plan.plain.items()}
