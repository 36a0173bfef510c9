"""Z-Image (Alibaba 2025): a causal language model reads a chat turn with the caption.

This module does not need torch.
"""

from __future__ import annotations

from neonym.models.family import EncoderSpec, SequenceSpec

LAYOUT = SequenceSpec(
    template=("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"), masked=True, brackets="text"
)
ENCODERS = (
    EncoderSpec("text_encoder", "Qwen3Model", "qwen3_4b", kind="causal_lm", width=2560, max_length=512, layout=LAYOUT),
)
