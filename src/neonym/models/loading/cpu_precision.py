"""The choice of bf16 or float32 for a model on the CPU of this machine. No library is imported for it."""

from __future__ import annotations

from functools import cache
from math import prod
from pathlib import Path

from neonym.models.loading.enough_memory import plain_shapes
from neonym.models.source import ModelSource

UNITS = {"avx512_bf16", "amx_bf16", "bf16"}  # of Intel and AMD, of Intel, of Arm
LARGE = (
    100e6  # weights of a denoiser; in smaller ones, little of a step is matrix products (`python -m benchmarks.step`)
)


def is_bf16_on_cpu(source: ModelSource) -> bool:
    """Return whether a model suits bf16 and is faster in it on this CPU: a large one, if the CPU has units for it."""
    suits = source.defaults.mixed_precision.value.startswith("bf16")
    return suits and has_bf16_units() and number_of_weights(source) >= LARGE


@cache
def has_bf16_units() -> bool:
    """Return whether the CPU has instructions for matrix products in bf16. Only Linux tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return not UNITS.isdisjoint(flags.split())


def number_of_weights(source: ModelSource) -> int:
    """Return the number of a denoiser's weights, 0 if its file does not tell without being read whole."""
    return sum(map(prod, plain_shapes(source.weights[source.family.denoiser.part]).values()))
