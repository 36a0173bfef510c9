"""Recognise the files of Z-Image's transformer, and convert its original names. This module does not need torch."""

from __future__ import annotations

from typing import Any

from neonym.models.families.flux_blocks import FLUX_VAE
from neonym.models.file_layout import FileLayout, flow_scheduler
from neonym.models.loading.header import Part
from neonym.models.loading.prefixes import without_prefix
from neonym.models.signatures import Choice, LoraSignature, Naming, Refusal, Signature

WIDTH = 3840
OMNI = Refusal("is Z-Image Omni, which also reads images", "Use Z-Image or Z-Image-Turbo")
SAME_SHAPES = (Choice("base"), Choice("de_turbo", ("de-turbo",)), Choice("turbo", ("turbo",)))
FUSED, EMBEDDER = "layers.0.attention.qkv.weight", "cap_embedder.1.weight"
PADS = ("x_pad_token", "cap_pad_token")  # Lumina2, which has the same names otherwise, has none
NAMINGS: tuple[tuple[str, Naming], ...] = (
    ("x_embedder.weight", "original"), ("all_x_embedder.2-1.weight", "diffusers"),
)  # fmt: skip


def variant(part: Part) -> str:
    """Return the variant: base and Turbo have the same shapes."""
    return "omni" if "siglip_embedder.0.weight" in part else "base_or_turbo"


SIGNATURES = tuple(
    Signature(
        "zimage", "Z-Image", (*PADS, EMBEDDER, key), variant, naming, refused={"omni": OMNI},
        choices={"base_or_turbo": SAME_SHAPES},
    )
    for key, naming in NAMINGS
)  # fmt: skip
LORA_SIGNATURES = (
    LoraSignature("zimage", r"layers_\d+_attention_(?:to_q|qkv)$", lambda layer: layer.columns == WIDTH),
    LoraSignature(
        "zimage", r"layers_\d+_(?:attention|feed_forward|adaLN_modulation)_", lambda layer: layer.columns == WIDTH
    ),
)


def config_from(part: Part) -> dict[str, Any]:
    """Return the config of the transformer from its shapes. Raises KeyError if weights are missing."""
    width, token = part.shape("x_embedder.weight")
    head = part.shape("layers.0.attention.q_norm.weight")[0]
    rows = part.shape(FUSED)[0] if FUSED in part else None
    keys = (rows - width) // 2 if rows else part.shape("layers.0.attention.to_k.weight")[0]
    return {
        "_class_name": "ZImageTransformer2DModel", "all_patch_size": [2], "all_f_patch_size": [1],
        "in_channels": token // 4, "dim": width, "n_layers": part.layers("layers.{}.attention.q_norm.weight"),
        "n_refiner_layers": part.layers("context_refiner.{}.attention.q_norm.weight"), "n_heads": width // head,
        "n_kv_heads": keys // head, "norm_eps": 1e-5, "qk_norm": True, "cap_feat_dim": part.shape(EMBEDDER)[1],
        "rope_theta": 256.0, "t_scale": 1000.0, "axes_dims": axes(head), "axes_lens": [1536, 512, 512],
    }  # fmt: skip


def axes(head: int) -> list[int]:
    """Return how a head's width is shared by the axes of the rotary positions, in even parts: 32, 48, 48 of 128."""
    side = head * 3 // 16 * 2
    return [head - 2 * side, side, side]


def from_original_names(tensors: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of the transformer under the names of diffusers."""
    from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers

    del config
    return convert_z_image_transformer_checkpoint_to_diffusers(without_prefix(tensors))


def scheduler(variant: str | None, choice: str) -> dict[str, Any]:
    """Return the config of the scheduler. The base's shift is that of its published folder, by report of others."""
    del variant
    return flow_scheduler(3.0 if choice == "turbo" else 6.0)


FILES = FileLayout(config_from, from_original_names, "zimage", "kl_16ch", scheduler, vae_words=FLUX_VAE)
