"""Identify unsupported checkpoint files from the names and shapes of their weights, for error messages."""

from __future__ import annotations

import re

from neonym.errors import ModelError
from neonym.models.loading.weight_files import Header

USE_AS_EMBEDDING = "Pass a learned word to --weights, or to --textual_inversion_embeddings of neonym generate"
UNSUPPORTED = (  # (pattern of a weight's name, what the file is, how to fix it)
    (r"lora_|\.lora[_.]|hada_w|lokr_w|(?:^|\.)oft_|dora_scale|bundle_emb\.", "is a LoRA, not a model", "Name the model that it belongs to"),
    (r"control_model\.|controlnet_|input_hint_block\.", "is a ControlNet, not a model", "Name the model that it belongs to"),
    (r"image_proj\.|ip_adapter\.", "is an IP-Adapter, not a model", "Name the model that it belongs to"),
    (r"motion_modules\.", "is a motion module, not a model", "Name the model that it belongs to"),
    (r"edm_mean|edm_vpred\.sigma_max", "was made for another noise schedule (EDM: Playground 2.5, CosXL)", ""),
    (r"\.scale_weight$|\.weight_scale$|^scaled_fp8$|\.quant_state\.", "has quantized weights (scaled fp8, or 4 bits)", "Use the model's file in fp16"),
    (r"\.RDB1\.|model\.1\.sub\.|upsampler\.0\.weight", "is an upscaler, not a model", ""),
)  # fmt: skip
UNKNOWN = (  # (pattern of a weight's name, what the file is): what no signature recognises
    (r"clip_txt_mapper|effnet_mapper|clip_txt_pooled_mapper", "is a Stable Cascade model", ""),
    (
        r"(?:double|joint|single_transformer)_blocks\.|double_layers\.|caption_projection\.|cap_embedder\.|x_embedder\.|(?:^|\.)blocks\.0\.(?:attn|cross_attn|self_attn)\.",
        "is a diffusion transformer of an unknown family, or weights are missing", "",
    ),
)  # fmt: skip
PARTS = (  # the same, for a file without a U-Net under the original names
    (r"(?:first_stage_model\.)?encoder\.down(?:_blocks)?\.|^decoder\.up(?:_blocks)?\.", "is a VAE alone", "Pass it with --vae, together with a model"),
    (r"^down_blocks\.0\.|^time_embedding\.", "is the U-Net of a model alone", "Name the Diffusers folder that it belongs to"),
    (r"token_embedding\.weight", "is a text encoder alone", "Name the model that it belongs to"),
)  # fmt: skip
ENCODERS = {  # key of an encoder in an embedding file -> what the word is for, unless a family has the key
    **dict.fromkeys(("t5xxl", "t5", "text_encoders_2"), "has vectors for T5, so it is for Stable Diffusion 3 or FLUX"),
    "llama": "has vectors for Llama, so it is for HiDream-I1 or HunyuanVideo",
    "gemma": "has vectors for Gemma, so it is for Sana",
    "qwen3vl_4b": "has vectors for Qwen3-VL, so it is for Krea 2",
    "qwen3vl_8b": "has vectors for Qwen3-VL, so it is for Qwen-Image 2.1",
    "qwen3_8b": "has vectors for Qwen3 8B, so it is for FLUX.2 klein 9B",
    "qwen3_06b": "has vectors for Qwen3 0.6B, so it is for Anima",
}


def refuse_unsupported(header: Header, name: str, whole: bool, supported: str) -> None:
    """Raise ModelError if a file is known to be something other than a supported model.

    `whole` tells whether a checkpoint layout recognises the file. `supported` lists all families, for the message.
    """
    if is_embedding(header):
        raise ModelError("is an embedding, not a model", name, USE_AS_EMBEDDING)
    for pattern, what, fix in (*UNSUPPORTED, *UNKNOWN):
        if any(re.search(pattern, key) for key in header.shapes):
            raise ModelError(what, name, fix or f"Words can be learned for {supported}")
    parts = [] if whole else [p for p in PARTS if any(re.search(p[0], key) for key in header.shapes)]
    if len(parts) == 1:
        raise ModelError(parts[0][1], name, parts[0][2])


def is_embedding(header: Header) -> bool:
    """Return whether a file has only a few tables of vectors."""
    vectors = all(
        1 <= len(shape) <= 2 and shape[-1] in (768, 1024, 1280, 2048, 4096) for shape in header.shapes.values()
    )
    return (
        0 < len(header.shapes) <= 4
        and vectors
        and not any("." in key.replace("string_to_param.", "") for key in header.shapes)
    )


def refuse_channels(channels: int, name: str) -> None:
    """Raise ModelError if a U-Net has more input channels than a noised latent."""
    if channels != 4:
        kinds = {9: "inpainting", 8: "editing images (InstructPix2Pix)", 5: "depth", 7: "upscaling"}
        what = f"takes {channels} channels: it is for {kinds.get(channels, 'another task')}, not for text-to-image"
        raise ModelError(what, name, "Use its base model")


def refiner(name: str) -> ModelError:
    """Return the error about an SDXL refiner, which lacks the first text encoder."""
    return ModelError("is an SDXL model without its first text encoder: a refiner", name, "Use the base model")
