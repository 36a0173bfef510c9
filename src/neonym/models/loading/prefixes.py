"""Name the prefixes that programs put in front of the names of weights. This module does not need torch."""

from __future__ import annotations

from typing import Any

DENOISERS = ("model.diffusion_model.", "model.model.", "diffusion_model.", "net.", "transformer.", "model.", "")
VAES = ("vae.", "first_stage_model.", "")
ENCODERS = "text_encoders."  # followed by the encoder's kind, and `transformer.`


def without_prefix(tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of a denoiser without the prefix that all of their names have."""
    prefix = next(own for own in DENOISERS if all(name.startswith(own) for name in tensors))
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
