"""Recognise the files of FLUX.1's transformer, and convert its original names. This module does not need torch."""

from __future__ import annotations

from typing import Any

from neonym.models.families.flux_blocks import DOUBLE, FLUX_VAE, SINGLE, flux_config, renamed
from neonym.models.file_layout import FileLayout, flow_scheduler
from neonym.models.loading.header import Part
from neonym.models.signatures import Choice, LoraSignature, Refusal, Signature, always

TOKEN = 64  # numbers of a patch of latents; other widths belong to models that also read an image
PICTURE = "is for editing or completing an image, or follows one: it reads one besides the text"
USE_DEV = "Use FLUX.1 dev or schnell"
REFUSED = {
    "fill": Refusal(f"is FLUX.1 Fill, which {PICTURE}", USE_DEV),
    "depth_or_canny": Refusal(f"is FLUX.1 Depth or Canny, which {PICTURE}", USE_DEV),
    "unknown": Refusal("is a FLUX.1 transformer that reads more than noised latents", USE_DEV),
}
KONTEXT = Refusal(
    "is FLUX.1 Kontext, which is made for editing images: words for it would be learned without the image to edit", USE_DEV
)  # fmt: skip
CONTROLNET = Refusal("is a ControlNet for FLUX.1, not a model", "Name the model that it belongs to")
SAME_SHAPES = (Choice("dev"), Choice("krea", ("krea",)), Choice("kontext", ("kontext",), KONTEXT))
WIDTHS = {64: "dev", 384: "fill", 128: "depth_or_canny"}
TOP = {
    "img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}  # fmt: skip
DOUBLE_BLOCK = {**DOUBLE, "img_mod.lin": ("norm1.linear",), "txt_mod.lin": ("norm1_context.linear",)}
SINGLE_BLOCK = {**SINGLE, "modulation.lin": ("norm.linear",)}


def variant(image: str, guidance: str) -> Any:
    """Return a function that tells the variant: by the width of the image's tokens, and whether guidance is an input."""

    def tell(part: Part) -> str:
        own = WIDTHS.get(part.size(image, 1) or 0, "unknown")
        return "schnell" if own == "dev" and guidance not in part else own

    return tell


SIGNATURES = (
    Signature(
        "flux1", "FLUX.1", ("controlnet_x_embedder.weight",), always("controlnet"), "diffusers", "other",
        refused={"controlnet": CONTROLNET},
    ),
    Signature(
        "flux1", "FLUX.1", ("img_in.weight", "vector_in.in_layer.weight", "double_blocks.0.img_attn.qkv.weight"),
        variant("img_in.weight", "guidance_in.in_layer.weight"), absent=("distilled_guidance_layer.in_proj.weight",),
        refused=REFUSED, choices={"dev": SAME_SHAPES},
    ),
    Signature(
        "flux1", "FLUX.1",
        ("x_embedder.weight", "transformer_blocks.0.attn.add_q_proj.weight", "single_transformer_blocks.0.proj_mlp.weight",
         "time_text_embed.text_embedder.linear_1.weight"),
        variant("x_embedder.weight", "time_text_embed.guidance_embedder.linear_1.weight"), "diffusers",
        refused=REFUSED, choices={"dev": SAME_SHAPES},
    ),
)  # fmt: skip
LORA_SIGNATURES = (
    LoraSignature("flux1", r"double_blocks_\d+_|single_blocks_\d+_|single_transformer_blocks_\d+_"),
)  # fmt: skip


def config_from(part: Part) -> dict[str, Any]:
    """Return the config of the transformer from its shapes. Raises KeyError if weights are missing."""
    return {
        **flux_config(part), "_class_name": "FluxTransformer2DModel", "patch_size": 1,
        "pooled_projection_dim": part.shape("vector_in.in_layer.weight")[1],
        "guidance_embeds": "guidance_in.in_layer.weight" in part,
    }  # fmt: skip


def from_original_names(tensors: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of the transformer under the names of diffusers."""
    return renamed(tensors, config, TOP, DOUBLE_BLOCK, SINGLE_BLOCK)


def scheduler(variant: str | None, choice: str) -> dict[str, Any]:
    """Return the config of the scheduler: dev's shifts by the size of the image, schnell's does not shift."""
    del choice
    return flow_scheduler(1.0) if variant == "schnell" else flow_scheduler(3.0, dynamic=True)


FILES = FileLayout(config_from, from_original_names, "flux1", "kl_16ch", scheduler, vae_words=FLUX_VAE)
