"""Stable Diffusion 1.x and 2.x in one file, as CompVis and Stability published them and most people keep them.

What the model is follows from names and shapes alone. Keys are renamed by diffusers' own converters.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neonym.errors import ModelError
from neonym.models.weights import Header, read_tensors

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
SDXL = "conditioner.embedders.1."
TOKENS = f"{CLIP}text_model.embeddings.token_embedding.weight"
OPEN_TOKENS = f"{OPEN_CLIP}token_embedding.weight"
HEAD = 64  # numbers of an attention head of CLIP, and of SD 2.x's U-Net
SCHEDULER = {
    "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip


def configs_of(header: Header, name: str, v_parameterization: bool | None) -> dict[str, dict[str, Any]]:
    """The configs that a Diffusers folder of this model would have. Raises ModelError for what it is not.

    An SD 2.x file says nothing of its prediction type, unless its metadata does: then `v_parameterization` decides.
    """
    if header.has(SDXL):
        raise ModelError("is an SDXL model, which is not supported yet", name)
    if not header.has(UNET) or not header.has(VAE):
        if any("lora_" in key for key in header.shapes):
            raise ModelError("is a LoRA, not a model", name, "Name the model that it belongs to")
        raise ModelError("is no Stable Diffusion checkpoint: it has no U-Net or no VAE", name)
    if TOKENS not in header.shapes and OPEN_TOKENS not in header.shapes:
        raise ModelError("has no text encoder of Stable Diffusion 1.x or 2.x", name)
    second = OPEN_TOKENS in header.shapes
    unet = unet_config(header, second)
    if unet["in_channels"] != 4:
        what = f"takes {unet['in_channels']} channels: it is for inpainting or depth, not for text to image"
        raise ModelError(what, name, "Train with the model that it was made from")
    prediction = prediction_type(header, second, v_parameterization)
    unet["sample_size"] = 96 if second and prediction == "v_prediction" else 64
    return {
        "model_index": {"_class_name": "StableDiffusionPipeline"},
        "unet": unet,
        "vae": vae_config(header, VAE),
        "text_encoder": open_clip_config(header) if second else clip_config(header),
        "scheduler": {**SCHEDULER, "prediction_type": prediction},
    }


def prediction_type(header: Header, second: bool, v_parameterization: bool | None) -> str:
    told = header.metadata.get("modelspec.prediction_type", "")
    if told:
        return "v_prediction" if told.startswith("v") else "epsilon"
    if "v_pred" in header.shapes:  # a marker that some trainers write
        return "v_prediction"
    return "v_prediction" if second and v_parameterization else "epsilon"


def unet_config(header: Header, second: bool) -> dict[str, Any]:
    """Four levels of two layers; widths from the shapes."""
    shapes = header.shapes
    widths = [shapes[f"{UNET}input_blocks.{block}.0.out_layers.3.weight"][0] for block in (1, 4, 7, 10)]
    attention = f"{UNET}input_blocks.1.1."
    cross = [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"]
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": shapes[f"{UNET}input_blocks.0.0.weight"][1],
        "out_channels": shapes[f"{UNET}out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": 2,
        "down_block_types": cross,
        "up_block_types": [name.replace("Down", "Up") for name in reversed(cross)],
        "cross_attention_dim": shapes[f"{attention}transformer_blocks.0.attn2.to_k.weight"][1],
        "attention_head_dim": [max(1, width // HEAD) for width in widths] if second else 8,
        "use_linear_projection": len(shapes[f"{attention}proj_in.weight"]) == 2,
    }


def vae_config(header: Header, start: str) -> dict[str, Any]:
    found = [
        re.match(re.escape(start) + r"encoder\.down\.(\d+)\.block\.0\.conv1\.weight", name) for name in header.shapes
    ]
    levels = sorted(int(match[1]) for match in found if match)
    widths = [header.shapes[f"{start}encoder.down.{level}.block.0.conv1.weight"][0] for level in levels]
    return {
        "_class_name": "AutoencoderKL", "block_out_channels": widths, "layers_per_block": 2, "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths), "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "scaling_factor": 0.18215, "sample_size": 512,
    }  # fmt: skip


def layers(header: Header, pattern: str) -> int:
    """How many numbered layers there are."""
    return header.count(lambda name: match[1] if (match := re.match(pattern, name)) else None)


def clip_config(header: Header) -> dict[str, Any]:
    vocab, width = header.shapes[TOKENS]
    return {
        "model_type": "clip_text_model", "vocab_size": vocab, "hidden_size": width, "projection_dim": width,
        "num_attention_heads": max(1, width // HEAD), "hidden_act": "quick_gelu", "max_position_embeddings": 77,
        "num_hidden_layers": layers(header, re.escape(CLIP) + r"text_model\.encoder\.layers\.(\d+)\."),
        "intermediate_size": header.shapes[f"{CLIP}text_model.encoder.layers.0.mlp.fc1.weight"][0],
        "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407,
    }  # fmt: skip


def open_clip_config(header: Header) -> dict[str, Any]:
    """OpenCLIP without its last layer, which Stable Diffusion 2.x does not use."""
    vocab, width = header.shapes[OPEN_TOKENS]
    block = f"{OPEN_CLIP}transformer.resblocks."
    return {
        "model_type": "clip_text_model", "vocab_size": vocab, "hidden_size": width, "projection_dim": width // 2,
        "num_attention_heads": max(1, width // HEAD), "hidden_act": "gelu", "max_position_embeddings": 77,
        "num_hidden_layers": layers(header, re.escape(block) + r"(\d+)\.") - 1,
        "intermediate_size": header.shapes[f"{block}0.mlp.c_fc.weight"][0],
        "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 0,
    }  # fmt: skip


def load_unet(file: Path, config: dict[str, Any], dtype: torch.dtype) -> Any:
    """Raises ModelError."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    tensors = convert_ldm_unet_checkpoint(read_tensors(file, (UNET,)), dict(config))
    return filled(lambda: UNet2DConditionModel.from_config(config), tensors, dtype, file)


def load_vae(file: Path, config: dict[str, Any], start: str = VAE) -> Any:
    """In float32. Raises ModelError."""
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    tensors = {f"{VAE}{name.removeprefix(start)}": value for name, value in read_tensors(file, (start,)).items()}
    return filled(
        lambda: AutoencoderKL.from_config(config), convert_ldm_vae_checkpoint(tensors, config), torch.float32, file
    )


def load_text_encoder(file: Path, config: dict[str, Any], dtype: torch.dtype) -> Any:
    """CLIP under its own names, or OpenCLIP's renamed. Raises ModelError."""
    from transformers import CLIPTextConfig, CLIPTextModel

    made = CLIPTextConfig(**config)
    if config["pad_token_id"] == 0:
        from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

        with torch.device("meta"):
            empty = CLIPTextModel(made)
        found = convert_open_clip_checkpoint(empty, read_tensors(file, (OPEN_CLIP,)), prefix=OPEN_CLIP)
        last = f"layers.{config['num_hidden_layers']}."
        tensors = {name: value for name, value in found.items() if last not in name and "text_projection" not in name}
    else:
        tensors = {name.removeprefix(CLIP): value for name, value in read_tensors(file, (CLIP,)).items()}
    return filled(lambda: CLIPTextModel(made), tensors, dtype, file)


def filled(make: Any, tensors: dict[str, Tensor], dtype: torch.dtype, file: Path) -> nn.Module:
    """A module made without weights, then given these: nothing is copied but what has another precision. Raises ModelError."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        module: nn.Module = make()
    wanted = set(module.state_dict())
    named = {as_wanted(name, wanted): value.to(dtype) for name, value in tensors.items() if "position_ids" not in name}
    missing, extra = sorted(wanted - set(named)), sorted(set(named) - wanted)
    if missing or extra:
        said = f"{len(missing)} weights of the {type(module).__name__} are missing ({', '.join(missing[:2])}), {len(extra)} unknown"
        raise ModelError(said, str(file), "Is the file complete?")
    try:
        module.load_state_dict(named, assign=True)
    except RuntimeError as error:
        raise ModelError(f"has weights of other shapes ({str(error).splitlines()[-1].strip()})", str(file)) from error
    return module


def as_wanted(name: str, wanted: set[str]) -> str:
    """transformers 5 has its text layers one level higher than the files."""
    shorter = name.removeprefix("text_model.")
    return name if name in wanted or shorter not in wanted else shorter
