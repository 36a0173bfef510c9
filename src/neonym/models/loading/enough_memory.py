"""Find out from the headers of files whether the memory of this machine can hold a model. No torch is needed."""

from __future__ import annotations

from math import prod

import psutil

from neonym.errors import ModelError
from neonym.models.loading.folder import Weights
from neonym.models.loading.quantized_files import is_quantized_file, plan_of
from neonym.models.loading.weight_files import read_header, stays_on_disk
from neonym.models.source import ModelSource
from neonym.models.storage import BYTES

GB = 1e9
VAE_WIDTH = 4  # bytes of a number: the VAE computes in float32


def check_memory(source: ModelSource, on_cpu: bool, width: int) -> None:
    """Raise ModelError if this machine cannot hold what is read of a model; `width` is the bytes of a number.

    Weights of a model on another device pass through the memory of the CPU one by one, unless a file stores them in
    fewer bits: they are then made plain there, one part after another.
    """
    parts = {part: held(source, part, on_cpu, width) for part in source.weights}
    needed = sum(parts.values()) if on_cpu else max(parts.values(), default=0.0)
    free = psutil.virtual_memory().available + psutil.swap_memory().free
    if needed > free:
        largest = max(parts, key=lambda part: parts[part])
        what = f"needs {needed / GB:.1f} GB of memory to be read, {parts[largest] / GB:.1f} GB of them for its {largest}, but only {free / GB:.1f} GB are free"
        raise ModelError(what, source.name, "Close other programs, use --base_precision=fp8, or use a smaller model")


def held(source: ModelSource, part: str, on_cpu: bool, width: int) -> float:
    """Return the bytes of the CPU's memory that one part takes while it is read."""
    weights, storage = source.weights[part], source.storage
    if on_cpu:
        scheme = storage.denoiser if part == source.family.denoiser.part else None
        each = VAE_WIDTH if part == "vae" else BYTES[scheme] if scheme else width
        return each * numbers_in(weights)
    return width * numbers_in(weights) if any(map(is_quantized_file, weights.files)) else 0.0


def numbers_in(weights: Weights) -> int:
    """Return how many numbers a part has. Those of a pickle in the old serialisation are not known: 0."""
    mapped = [file for file in weights.files if stays_on_disk(file)]
    plans = (plan_of(file, read_header(file), (weights.start,)) for file in mapped)
    return sum(prod(shape) for plan in plans for shape in plan.plain.values())
