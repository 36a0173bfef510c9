"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): two CLIP text encoders and T5, without masks.

This module does not need torch.
"""

from __future__ import annotations

from dataclasses import replace

from neonym.models.family import EncoderSpec, SequenceSpec

CLIP = SequenceSpec(repaired=False)
ENCODERS = (
    EncoderSpec("text_encoder", "CLIPTextModelWithProjection", "clip_l", width=768, max_length=77, layout=CLIP),
    EncoderSpec("text_encoder_2", "CLIPTextModelWithProjection", "clip_g", width=1280, max_length=77, layout=replace(CLIP, pads_with=0)),
    EncoderSpec(
        "text_encoder_3", "T5EncoderModel", "t5xxl", ("t5",), kind="t5", width=4096, max_length=256,
        layout=SequenceSpec(comfyui_length=77),
    ),
)  # fmt: skip
