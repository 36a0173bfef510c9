"""Anima (CircleStone Labs 2026): a causal language model reads the plain caption, and an adapter its ids of T5.

This module does not need torch.
"""

from __future__ import annotations

from neonym.models.family import EncoderSpec, SequenceSpec

ENCODERS = (
    EncoderSpec(
        "text_encoder", "Qwen3Model", "qwen3_06b", kind="causal_lm", width=1024, max_length=512,
        layout=SequenceSpec(masked=True, full_length=False, brackets="split", comfyui_length=1),
    ),
)  # fmt: skip
# The adapter has its own table of T5's ids. ComfyUI puts id 0 in the place of each vector of a word.
ID_READERS = (
    EncoderSpec(
        "t5_tokenizer", "", "", kind="t5", max_length=512,
        layout=SequenceSpec(masked=True, full_length=False, word_id=0),
    ),
)  # fmt: skip
