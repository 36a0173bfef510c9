"""Recognise the files of FLUX.2's transformers, and convert their original names. This module does not need torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from neonym.models.families.flux_blocks import norm_size
from neonym.models.file_layout import FileLayout, always_shift
from neonym.models.loading.header import Part
from neonym.models.loading.prefixes import without_prefix
from neonym.models.signatures import Choice, LoraLayer, LoraSignature, Signature

VARIANTS = {15360: "dev", 7680: "klein_4b", 12288: "klein_9b"}  # width of the text states
WIDTHS = {6144: "dev", 3072: "klein_4b", 4096: "klein_9b"}  # width of the transformer
AXES, THETA = 4, 2000  # of the rotary positions
SAME_SHAPES = (
    Choice("base", ("klein-base", "base")),
    Choice("distilled", ("distilled", "klein")),
)  # as they are published
GUIDANCE = ("guidance_in.in_layer.weight", "time_guidance_embed.guidance_embedder.linear_1.weight")  # only dev has it
CHOICES = {"klein_4b": SAME_SHAPES, "klein_9b": SAME_SHAPES}


def variant(text: str) -> Callable[[Part], str | None]:
    """Return a function that tells the variant: by the width of the text states, or because it reads a guidance scale."""

    def tell(part: Part) -> str | None:
        return "dev" if any(name in part for name in GUIDANCE) else VARIANTS.get(part.size(text, 1) or 0)

    return tell


def lora_variant(layers: Mapping[str, LoraLayer]) -> str | None:
    """Return the variant that a LoRA belongs to, from the width of the first layer that reads hidden states."""
    found = (
        layer.columns
        for name, layer in layers.items()
        if name.endswith(("_qkv", "_linear1", "_to_q", "_to_qkv_mlp_proj"))
    )
    return WIDTHS.get(next(found, None) or 0)


SIGNATURES = (
    Signature(
        "flux2", "FLUX.2", ("double_stream_modulation_img.lin.weight", "txt_in.weight"),
        variant("txt_in.weight"), choices=CHOICES,
    ),
    Signature(
        "flux2", "FLUX.2", ("double_stream_modulation_img.linear.weight", "context_embedder.weight"),
        variant("context_embedder.weight"), "diffusers", choices=CHOICES,
    ),
)  # fmt: skip
# FLUX.1 shares the names: a LoRA is for FLUX.2 if its feed-forward layers are gated, or its width is not 3072
LORA_SIGNATURES = (
    LoraSignature(
        "flux2", r"double_blocks_\d+_(?:img|txt)_mlp_0$", lambda layer: ratio(layer) == 6, variant=lora_variant
    ),
    LoraSignature("flux2", r"single_blocks_\d+_linear1$", lambda layer: ratio(layer) == 9, variant=lora_variant),
    LoraSignature(
        "flux2",
        r"double_blocks_\d+_(?:img|txt)_attn_qkv$",
        lambda layer: layer.columns in (4096, 6144),
        lora_variant,
    ),
    LoraSignature("flux2", r"single_transformer_blocks_\d+_attn_to_qkv_mlp_proj$", variant=lora_variant),
)


def ratio(layer: LoraLayer) -> float:
    """Return how many times wider the output of a layer is than its input, or 0 if that is unknown."""
    return layer.rows / layer.columns if layer.rows and layer.columns else 0


def config_from(part: Part) -> dict[str, Any]:
    """Return the config of the transformer from its shapes. Raises KeyError if weights are missing."""
    width, tokens = part.shape("img_in.weight")
    head = norm_size(part)
    return {
        "_class_name": "Flux2Transformer2DModel", "patch_size": 1, "in_channels": tokens,
        "num_layers": part.layers("double_blocks.{}.img_attn.qkv.weight"),
        "num_single_layers": part.layers("single_blocks.{}.linear1.weight"), "attention_head_dim": head,
        "num_attention_heads": width // head, "joint_attention_dim": part.shape("txt_in.weight")[1],
        "mlp_ratio": part.shape("double_blocks.0.img_mlp.2.weight")[1] / width,
        "timestep_guidance_channels": part.shape("time_in.in_layer.weight")[1],
        "axes_dims_rope": [head // AXES] * AXES, "rope_theta": THETA, "eps": 1e-6,
        "guidance_embeds": "guidance_in.in_layer.weight" in part,
    }  # fmt: skip


def from_original_names(tensors: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of the transformer under the names of diffusers."""
    from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers

    del config
    return convert_flux2_transformer_checkpoint_to_diffusers(without_prefix(tensors))


def files_of(variant: str) -> FileLayout:
    """Return the layout of the files of one size, which is a family of its own."""
    scheduler = always_shift(3.0, dynamic=True)
    vae = "flux2-vae.safetensors"
    return FileLayout(config_from, from_original_names, "flux2", "kl_32ch", scheduler, vae, variants=(variant,))
