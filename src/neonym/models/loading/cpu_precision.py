"""The choice of bf16 or float32 for a model on the CPU of this machine. No library is imported for it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from neonym.models.source import ModelSource

UNITS = {"avx512_bf16", "amx_bf16", "bf16"}  # of Intel and AMD, of Intel, of Arm
# Width of the token table of the widest text encoder. In smaller models, little of a step is matrix products.
LARGE = 512


def is_bf16_on_cpu(source: ModelSource) -> bool:
    """Return whether a model suits bf16 and is faster in it on this CPU: a large one, if the CPU has units for it.

    It depends on the configs alone: a model whose weights are not downloaded yet gets the precision that it has later.
    """
    suits = source.defaults.mixed_precision.value.startswith("bf16")
    return suits and max(source.widths.values(), default=0) >= LARGE and has_bf16_units()


@cache
def has_bf16_units() -> bool:
    """Return whether the CPU has instructions for matrix products in bf16. Only Linux tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return not UNITS.isdisjoint(flags.split())
