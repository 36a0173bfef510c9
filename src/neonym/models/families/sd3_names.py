"""Recognise the files of Stable Diffusion 3's transformers, and convert their names. This module does not need torch."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

from neonym.models.file_layout import FileLayout, always_shift
from neonym.models.loading.header import Part
from neonym.models.loading.prefixes import without_prefix
from neonym.models.signatures import Choice, LoraLayer, LoraSignature, Signature

LARGE, MEDIUM = 2432, 1536  # widths of the transformer
HEAD = 64
VAE = ("sd3", "stable-diffusion-3")  # words in the names of files of its VAE
TURBO = Choice("turbo", ("turbo",))
CHOICES = {"3.5_large": (Choice("large"), TURBO), "3.5_medium": (Choice("medium"), TURBO)}


def variant(positions: str, second: str, norm: str) -> Any:
    """Return a function that tells the variant: by the width, and by what 3.5 has besides."""

    def tell(part: Part) -> str | None:
        width = part.size(positions, 2)
        if width == LARGE:
            return "3.5_large"
        if second in part or part.size(positions, 1) == 384**2:
            return "3.5_medium"
        return "3_medium" if width == MEDIUM and norm not in part else None

    return tell


def lora_variant(layers: Mapping[str, LoraLayer]) -> str | None:
    """Return the variant that a LoRA belongs to, or None for what fits both medium ones."""
    if any("attn2_" in name for name in layers):
        return "3.5_medium"
    return "3.5_large" if any(layer.columns == LARGE for layer in layers.values()) else None


SIGNATURES = (
    Signature(
        "sd3", "Stable Diffusion 3", ("joint_blocks.0.context_block.attn.qkv.weight",),
        variant("pos_embed", "joint_blocks.0.x_block.attn2.qkv.weight", "joint_blocks.0.x_block.attn.ln_q.weight"),
        choices=CHOICES,
    ),
    Signature(
        "sd3", "Stable Diffusion 3", ("pos_embed.pos_embed", "transformer_blocks.0.norm1_context.linear.weight"),
        variant("pos_embed.pos_embed", "transformer_blocks.0.attn2.to_q.weight", "transformer_blocks.0.attn.norm_q.weight"),
        "diffusers", choices=CHOICES, absent=("controlnet_blocks.0.weight",),
    ),
)  # fmt: skip
LORA_SIGNATURES = (
    LoraSignature("sd3", r"joint_blocks_\d+_", variant=lora_variant),
    LoraSignature(
        "sd3", r"transformer_blocks_\d+_attn_(?:add_q_proj|to_q)$",
        lambda layer: LARGE in (layer.columns, layer.rows) or MEDIUM in (layer.columns, layer.rows), lora_variant,
    ),
)  # fmt: skip


def config_from(part: Part) -> dict[str, Any]:
    """Return the config of the transformer from its shapes. Raises KeyError if weights are missing."""
    block = "joint_blocks.{}.x_block."
    layers = part.layers(f"{block}attn.qkv.weight")
    width, channels, patch, _ = part.shape("x_embedder.proj.weight")
    norm = f"{block.format(0)}attn.ln_q.weight"
    head = part.shape(norm)[0] if norm in part else HEAD
    return {
        "_class_name": "SD3Transformer2DModel", "sample_size": 128, "patch_size": patch, "in_channels": channels,
        "num_layers": layers, "attention_head_dim": head, "num_attention_heads": width // head,
        "joint_attention_dim": part.shape("context_embedder.weight")[1], "caption_projection_dim": width,
        "pooled_projection_dim": part.shape("y_embedder.mlp.0.weight")[1], "out_channels": channels,
        "pos_embed_max_size": isqrt(part.shape("pos_embed")[1]),
        "dual_attention_layers": [i for i in range(layers) if f"{block.format(i)}attn2.qkv.weight" in part],
        "qk_norm": "rms_norm" if norm in part else None,
    }  # fmt: skip


def from_original_names(tensors: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of the transformer under the names of diffusers."""
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    del config
    return convert_sd3_transformer_checkpoint_to_diffusers(without_prefix(tensors))


FILES = FileLayout(
    config_from, from_original_names, "sd3", "kl_16ch", always_shift(3.0), "sd3_vae.safetensors", vae_words=VAE
)
