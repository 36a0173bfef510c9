"""FLUX.2 klein (Black Forest Labs 2026): a causal language model reads a chat turn with an empty thought.

Its padding is read by the transformer, without a mask. This module does not need torch.
"""

from __future__ import annotations

from neonym.models.family import EncoderSpec, SequenceSpec

LAYOUT = SequenceSpec(
    template=("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    masked=True,
    brackets="text",
    comfyui_length=512,
)


def qwen3(file_key: str, width: int) -> EncoderSpec:
    """Return the text encoder of a size of klein."""
    return EncoderSpec(
        "text_encoder", "Qwen3ForCausalLM", file_key, kind="causal_lm", width=width, max_length=512, layout=LAYOUT
    )


KLEIN_4B, KLEIN_9B = (qwen3("qwen3_4b", 2560),), (qwen3("qwen3_8b", 4096),)
