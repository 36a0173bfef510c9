"""Translate the names that llama.cpp gives to the weights of text encoders. This module does not need torch."""

from __future__ import annotations

import re
from collections.abc import Mapping

TABLE = "token_embd.weight"  # every text encoder under these names has it, and no image model
T5_FIRST = "enc.blk.0.attn_q.weight"
BLOCK = re.compile(r"(?:enc\.)?blk\.(\d+)\.(\w+)\.(\w+)")
DECODER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "post_ffw_norm": "post_feedforward_layernorm",
}  # fmt: skip
DECODER_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
T5 = {
    "attn_norm": "layer.0.layer_norm", "attn_q": "layer.0.SelfAttention.q", "attn_k": "layer.0.SelfAttention.k",
    "attn_v": "layer.0.SelfAttention.v", "attn_o": "layer.0.SelfAttention.o",
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias", "ffn_norm": "layer.1.layer_norm",
    "ffn_gate": "layer.1.DenseReluDense.wi_0", "ffn_up": "layer.1.DenseReluDense.wi_1",
    "ffn_down": "layer.1.DenseReluDense.wo",
}  # fmt: skip
T5_TOP = {"token_embd": "shared", "enc.output_norm": "encoder.final_layer_norm"}
PERMUTED = ("llama", "mistral")  # architectures whose queries and keys llama.cpp stores in another order


def library_names(names: Mapping[str, object]) -> dict[str, str]:
    """Return the name in transformers of every name; all are kept unless they are those of a text encoder."""
    if TABLE not in names:
        return {name: name for name in names}
    t5 = T5_FIRST in names
    return {name: library_name(name, t5) for name in names}


def library_name(name: str, t5: bool) -> str:
    """Return the name in transformers of a weight of a text encoder; an unknown one keeps its name."""
    blocks, top = (T5, T5_TOP) if t5 else (DECODER, DECODER_TOP)
    if match := BLOCK.fullmatch(name):
        index, layer, leaf = match.groups()
        if layer in blocks:
            return f"{'encoder.block' if t5 else 'model.layers'}.{index}.{blocks[layer]}.{leaf}"
    layer, _, leaf = name.rpartition(".")
    return f"{top[layer]}.{leaf}" if layer in top else name
