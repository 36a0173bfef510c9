"""FLUX.1 (Black Forest Labs 2024): pooled text of CLIP, and a sequence of T5 without a mask.

This module does not need torch.
"""

from __future__ import annotations

from neonym.models.family import EncoderSpec, SequenceSpec

DEV_LENGTH, SCHNELL_LENGTH = 512, 256  # ids of T5; padding is read like text, so the number matters
ENCODERS = (
    EncoderSpec(
        "text_encoder", "CLIPTextModel", "clip_l", width=768, max_length=77, layout=SequenceSpec(repaired=False),
    ),
    EncoderSpec(
        "text_encoder_2", "T5EncoderModel", "t5xxl", ("t5",), kind="t5", width=4096, max_length=DEV_LENGTH,
        layout=SequenceSpec(comfyui_length=256),
    ),
)  # fmt: skip
