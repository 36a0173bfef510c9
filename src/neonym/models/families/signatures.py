"""List the signatures of all families, in the order in which they are tried."""

from __future__ import annotations

from neonym.models.families import (
    anima_names,
    chroma_names,
    flux2_names,
    flux_names,
    sd3_names,
    unsupported_models,
    z_image_names,
)
from neonym.models.signatures import LoraSignature, Signature

SIGNATURES: tuple[Signature, ...] = (
    *chroma_names.SIGNATURES,
    *flux2_names.SIGNATURES,
    *flux_names.SIGNATURES,
    *sd3_names.SIGNATURES,
    *z_image_names.SIGNATURES,
    *anima_names.SIGNATURES,
    *unsupported_models.SIGNATURES,
)
LORA_SIGNATURES: tuple[LoraSignature, ...] = (
    *flux2_names.LORA_SIGNATURES,
    *unsupported_models.LORA_SIGNATURES,
    *flux_names.LORA_SIGNATURES,
    *sd3_names.LORA_SIGNATURES,
    *z_image_names.LORA_SIGNATURES,
    *anima_names.LORA_SIGNATURES,
)
