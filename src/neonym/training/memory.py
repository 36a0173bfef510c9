"""Decide how the frozen weights of a run are kept in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

from neonym.config.run import RunConfig
from neonym.models.source import ModelSource
from neonym.models.storage import SCHEMES, Scheme, Storage


def storage_of(run: RunConfig, source: ModelSource, device: torch.device, note: Callable[[str], None]) -> Storage:
    """Return how the frozen weights are kept in memory, according to the run's settings."""
    settings, denoiser = run.compute, source.family.denoiser
    base = scheme_on(device, settings.base_precision, note)
    encoders = base if settings.encoder_precision == "auto" else scheme_on(device, settings.encoder_precision, note)
    quantizable = [encoder.name for encoder in source.family.encoders if encoder.kind != "clip"]
    if encoders is not None and quantizable:
        names = " and ".join(quantizable)
        note(f"note: the weights of {names} are kept in {encoders}, except for the table of all tokens")
    return Storage(base, encoders, (settings.blocks_to_swap or 0) if denoiser.blocks else 0)


def scheme_on(device: torch.device, precision: str, note: Callable[[str], None]) -> Scheme | None:
    """Return the scheme of a precision on a device; None if weights are not quantized."""
    scheme: Scheme | None = next((scheme for scheme in SCHEMES if scheme == precision), None)
    if scheme == "fp8" and device.type == "mps":
        note("note: fp8 -> int8: this device has no 8-bit floating-point numbers; int8 takes the same memory")
        return "int8"
    return scheme
