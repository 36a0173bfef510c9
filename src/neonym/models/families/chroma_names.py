"""Recognise the files of Chroma's transformer, and convert its original names. This module does not need torch."""

from __future__ import annotations

from typing import Any

from neonym.models.families.flux_blocks import DOUBLE, FLUX_VAE, SINGLE, flux_config, renamed
from neonym.models.file_layout import FileLayout, always_shift
from neonym.models.loading.header import Part
from neonym.models.signatures import Choice, Refusal, Signature, always

APPROXIMATOR = "distilled_guidance_layer."
RADIANCE = Refusal(
    "is Chroma Radiance, which works on pixels, without latents, and is trained in another way", "Use Chroma1-HD or Chroma1-Base"
)  # fmt: skip
SAME_SHAPES = (Choice("base"), Choice("hd", ("hd",)), Choice("flash", ("flash",)))
TOP = {"img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out"}
SIGNATURES = (
    Signature(
        "chroma", "Chroma", (f"{APPROXIMATOR}in_proj.weight", "nerf_blocks.0.norm.scale"), always("radiance"),
        refused={"radiance": RADIANCE},
    ),
    Signature(
        "chroma", "Chroma", (f"{APPROXIMATOR}in_proj.weight", "img_in_patch.weight"), always("radiance"),
        refused={"radiance": RADIANCE},
    ),
    Signature(
        "chroma", "Chroma", (f"{APPROXIMATOR}in_proj.weight", "img_in.weight", "double_blocks.0.img_attn.qkv.weight"),
        always("chroma"), choices={"chroma": SAME_SHAPES},
    ),
    Signature(
        "chroma", "Chroma", (f"{APPROXIMATOR}layers.0.linear_1.weight", "x_embedder.weight"),
        always("chroma"), "diffusers", choices={"chroma": SAME_SHAPES},
    ),
)  # fmt: skip


def config_from(part: Part) -> dict[str, Any]:
    """Return the config of the transformer from its shapes. Raises KeyError if weights are missing."""
    hidden, channels = part.shape(f"{APPROXIMATOR}in_proj.weight")
    return {
        **flux_config(part), "_class_name": "ChromaTransformer2DModel", "patch_size": 1,
        "approximator_num_channels": channels, "approximator_hidden_dim": hidden,
        "approximator_layers": part.layers(f"{APPROXIMATOR}layers.{{}}.in_layer.weight"),
    }  # fmt: skip


def from_original_names(tensors: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of the transformer under the names of diffusers."""
    found = renamed(tensors, config, TOP, DOUBLE, SINGLE)
    return {approximator_name(name): tensor for name, tensor in found.items()}


def approximator_name(name: str) -> str:
    """Return the name in diffusers of a weight, which differs for two layers of the approximator."""
    if not name.startswith(APPROXIMATOR):
        return name
    return name.replace(".in_layer.", ".linear_1.").replace(".out_layer.", ".linear_2.")


FILES = FileLayout(config_from, from_original_names, "chroma", "kl_16ch", always_shift(1.0), vae_words=FLUX_VAE)
