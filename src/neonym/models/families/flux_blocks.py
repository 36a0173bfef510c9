"""Convert the names of the double and single stream blocks that FLUX.1 and Chroma share.

Diffusers' converters for them work only at the full width. This module does not need torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from neonym.models.loading.header import Part
from neonym.models.loading.prefixes import without_prefix

Blocks = Mapping[str, tuple[str, ...]]  # original layer -> its name, or the names of the layers stacked in its rows
BLOCK = re.compile(r"(double|single)_blocks\.(\d+)\.(.+)")
DOUBLE: Blocks = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.norm.query_norm": ("attn.norm_q",), "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",), "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    "img_attn.proj": ("attn.to_out.0",), "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",), "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",), "txt_mlp.2": ("ff_context.net.2",),
}  # fmt: skip
SINGLE: Blocks = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), "linear2": ("proj_out",),
    "norm.query_norm": ("attn.norm_q",), "norm.key_norm": ("attn.norm_k",),
}  # fmt: skip
NEW = {"double": "transformer_blocks", "single": "single_transformer_blocks"}
FLUX_VAE = ("flux", "ae")  # words in the names of files of FLUX.1's VAE, which Chroma and Z-Image have too
SWAPPED = "norm_out.linear"  # its halves, shift and scale, are in the other order in diffusers


def flux_config(part: Part) -> dict[str, Any]:
    """Return what the configs of both have in common. Raises KeyError if weights are missing."""
    width, tokens = part.shape("img_in.weight")
    head = norm_size(part)
    return {
        "in_channels": tokens, "num_layers": part.layers("double_blocks.{}.img_attn.qkv.weight"),
        "num_single_layers": part.layers("single_blocks.{}.linear1.weight"), "attention_head_dim": head,
        "num_attention_heads": width // head, "joint_attention_dim": part.shape("txt_in.weight")[1],
        "axes_dims_rope": axes(head),
    }  # fmt: skip


def norm_size(part: Part) -> int:
    """Return the width of an attention head: that of the norm of keys. Raises KeyError."""
    norm = "double_blocks.0.img_attn.norm.key_norm."
    return part.shape(f"{norm}scale" if f"{norm}scale" in part else f"{norm}weight")[0]


def axes(head: int) -> list[int]:
    """Return how a head's width is shared by the axes of the rotary positions, in even parts: 16, 56, 56 of 128."""
    side = head * 7 // 32 * 2
    return [head - 2 * side, side, side]


def renamed(
    tensors: dict[str, Any], config: Mapping[str, Any], top: Mapping[str, str], double: Blocks, single: Blocks
) -> dict[str, Any]:
    """Return the weights under the names of diffusers; unknown ones keep theirs."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    found = {}
    for name, tensor in without_prefix(tensors).items():
        layer, _, leaf = name.rpartition(".")
        leaf = "weight" if leaf == "scale" else leaf
        if match := BLOCK.fullmatch(layer):
            stack, index, inner = match.groups()
            names = (double if stack == "double" else single).get(inner, (inner,))
            for new, rows in zip(names, split(tensor, len(names), width), strict=True):
                found[f"{NEW[stack]}.{index}.{new}.{leaf}"] = rows
        else:
            new = top.get(layer, layer)
            found[f"{new}.{leaf}"] = tensor.roll(tensor.shape[0] // 2, 0) if new == SWAPPED else tensor
    return found


def split(tensor: Any, parts: int, width: int) -> tuple[Any, ...]:
    """Return the rows of the layers that are stacked in a tensor: queries, keys and values of `width`, then the rest."""
    if parts == 1:
        return (tensor,)
    sizes = [width] * 3 + ([tensor.shape[0] - 3 * width] if parts == 4 else [])
    return tensor.split(sizes)
