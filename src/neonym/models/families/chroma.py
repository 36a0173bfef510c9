"""Chroma (Lodestone Rock 2025): a sequence of T5, with a mask. This module does not need torch."""

from __future__ import annotations

from neonym.models.family import EncoderSpec, SequenceSpec

ENCODERS = (
    EncoderSpec(
        "text_encoder", "T5EncoderModel", "t5xxl", ("t5",), kind="t5", width=4096, max_length=512,
        layout=SequenceSpec(masked=True),
    ),
)  # fmt: skip
