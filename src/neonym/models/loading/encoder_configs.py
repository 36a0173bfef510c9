"""Derive the configs of text encoders in files of their own from their weights. This module does not need torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from neonym.models.loading.encoder_files import STARTS, EncoderFacts
from neonym.models.loading.header import Part

CLIP_HEAD = 64  # width of an attention head in CLIP, which shapes do not tell
OPEN_CLIP = ("clip_g", "clip_h")  # kinds that were trained by OpenCLIP, with another activation function
LAYER = "layers.{}.input_layernorm.weight"


def encoder_config(part: Part, facts: EncoderFacts, kind: str) -> dict[str, Any]:
    """Return the config of a text encoder that is used as one of this kind.

    Raises KeyError if weights are missing or the architecture is unknown.
    """
    if facts.architecture == "clip":
        return clip_config(part, kind in OPEN_CLIP)
    return CONFIGS[facts.architecture](part)


def clip_config(part: Part, open_clip: bool) -> dict[str, Any]:
    """Return the config of a CLIP text encoder, OpenAI's or OpenCLIP's."""
    body = with_start(part, "embeddings.token_embedding.weight", ("text_model.", ""))
    vocabulary, width = body.shape("embeddings.token_embedding.weight")
    projection = "text_projection.weight"
    return {
        "model_type": "clip_text_model", "vocab_size": vocabulary, "hidden_size": width,
        "intermediate_size": body.shape("encoder.layers.0.mlp.fc1.weight")[0],
        "projection_dim": part.shape(projection)[0] if projection in part else width,
        "num_hidden_layers": body.layers("encoder.layers.{}.self_attn.q_proj.weight"),
        "num_attention_heads": max(1, width // CLIP_HEAD),
        "hidden_act": "gelu" if open_clip else "quick_gelu",
        "max_position_embeddings": body.shape("embeddings.position_embedding.weight")[0],
        "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 0 if open_clip else 49407,
    }  # fmt: skip


def t5_config(part: Part) -> dict[str, Any]:
    """Return the config of T5's encoder, version 1.1."""
    attention = "encoder.block.0.layer.0.SelfAttention."
    buckets, heads = part.shape(f"{attention}relative_attention_bias.weight")
    vocabulary, width = part.shape("shared.weight")
    return {
        "model_type": "t5", "vocab_size": vocabulary, "d_model": width,
        "d_kv": part.shape(f"{attention}q.weight")[0] // heads, "num_heads": heads,
        "d_ff": part.shape("encoder.block.0.layer.1.DenseReluDense.wi_1.weight")[0],
        "num_layers": part.layers("encoder.block.{}.layer.0.layer_norm.weight"),
        "relative_attention_num_buckets": buckets, "relative_attention_max_distance": 128,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "dropout_rate": 0.0,
    }  # fmt: skip


def qwen3_config(part: Part) -> dict[str, Any]:
    """Return the config of Qwen3."""
    body = with_start(part, LAYER.format(0), STARTS)
    head = body.shape("layers.0.self_attn.q_norm.weight")[0]
    return {
        **decoder_config(body, head), "model_type": "qwen3", "rope_theta": 1e6, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 40960, "tie_word_embeddings": "lm_head.weight" not in part,
    }  # fmt: skip


def mistral_config(part: Part) -> dict[str, Any]:
    """Return the config of the text part of Mistral-Small-3."""
    return {
        **decoder_config(with_start(part, LAYER.format(0), STARTS), 128), "model_type": "mistral", "rope_theta": 1e9,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 131072, "sliding_window": None, "tie_word_embeddings": False,
    }  # fmt: skip


def decoder_config(body: Part, head: int) -> dict[str, Any]:
    """Return what the configs of decoder models have in common; `head` is the width of an attention head."""
    vocabulary, width = body.shape("embed_tokens.weight")
    return {
        "vocab_size": vocabulary, "hidden_size": width, "head_dim": head,
        "intermediate_size": body.shape("layers.0.mlp.up_proj.weight")[0], "num_hidden_layers": body.layers(LAYER),
        "num_attention_heads": body.shape("layers.0.self_attn.q_proj.weight")[0] // head,
        "num_key_value_heads": body.shape("layers.0.self_attn.k_proj.weight")[0] // head,
    }  # fmt: skip


def with_start(part: Part, key: str, starts: tuple[str, ...]) -> Part:
    """Return the tensors with the first of `starts` that has `key` behind it. Raises KeyError if none has."""
    found = (Part(part.header, f"{part.prefix}{start}") for start in starts)
    own = next((own for own in found if key in own), None)
    if own is None:
        raise KeyError(f"{part.prefix}{key}")
    return own


CONFIGS: Mapping[str, Callable[[Part], dict[str, Any]]] = {
    "t5": t5_config, "qwen3": qwen3_config, "mistral": mistral_config,
}  # fmt: skip
