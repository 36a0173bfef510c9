"""Read the configuration of Stable Diffusion 1.x, 2.x and XL checkpoints in a single file (the original LDM layout).

It follows from the names and shapes of the weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neonym.errors import ModelError
from neonym.models.families.unsupported import refiner, refuse_channels
from neonym.models.family import BY_USER, CheckpointHints, Configs
from neonym.models.loading.vae_config import vae_config
from neonym.models.loading.weight_files import Header

UNET, VAE = "model.diffusion_model.", "first_stage_model."
AVERAGE = "model_ema.diffusion_model"  # an EMA of the U-Net, whose names have no dots
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
XL_CLIP, XL_OPEN_CLIP = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
OPEN = (OPEN_CLIP, XL_OPEN_CLIP)
TOKENS, OPEN_TOKENS = "embeddings.token_embedding.weight", "token_embedding.weight"
BODIES = ("text_model.", "")  # some files omit this prefix
PARAMETERIZATION = re.compile(r"""^\s*parameterization:\s*["']?(v|eps)\b""", re.MULTILINE)
HEAD = 64  # width of an attention head in CLIP and in the U-Net of SD 2.x
SCHEDULER = {
    "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """The differences between families that share this layout."""

    family: str
    texts: Mapping[str, str]  # text encoder -> prefix of its weights
    sizes: tuple[int, int]  # latent size of models that predict noise, and of models that predict v
    scaling_factor: float
    heads: int | None = None  # attention heads in the U-Net's config; None: derived from the widths
    reads_sizes: bool = False


VARIANTS = (
    Variant("sdxl", {"text_encoder": XL_CLIP, "text_encoder_2": XL_OPEN_CLIP}, (128, 128), 0.13025, reads_sizes=True),
    Variant("sd2", {"text_encoder": OPEN_CLIP}, (64, 96), 0.18215),
    Variant("sd1", {"text_encoder": CLIP}, (64, 64), 0.18215, heads=8),
)


def recognises(header: Header) -> bool:
    """Return whether a file has a U-Net under the original names."""
    return header.has(UNET)


def configs_of(header: Header, name: str, hints: CheckpointHints) -> Configs:
    """Return the configs that a Diffusers folder of this model would have.

    Raises ModelError if the checkpoint is incomplete or of an unsupported model.
    """
    parts = {"U-Net": header.has(UNET), "VAE": hints.other_vae or header.has(VAE)}
    missing = [part for part, found in parts.items() if not found]
    if missing:
        what = f"is not a Stable Diffusion checkpoint: it has no {' and no '.join(missing)}"
        fix = (
            "It has only an average of the weights (model_ema.), which no program reads" if header.has(AVERAGE) else ""
        )
        raise ModelError(what, name, "Choose a VAE with --vae" if missing == ["VAE"] else fix)
    variant = variant_of(header, name)
    try:
        return described(header, variant, name, checkpoint_prediction(header, hints.v_parameterization, hints.sidecar))
    except (KeyError, IndexError, StopIteration, ValueError, TypeError) as error:
        reason = str(error).strip("'") or "there is no attention"
        what = f"looks like {variant.family}, but weights are missing or have other shapes ({reason})"
        raise ModelError(what, name, "Is the file complete?") from error


def described(header: Header, variant: Variant, name: str, prediction: tuple[str, str]) -> Configs:
    """Return the configs of a checkpoint of this variant.

    `prediction` is the prediction type and where it was read. Raises ModelError for a related model that is unsupported,
    and KeyError, IndexError, StopIteration, ValueError or TypeError if weights are missing or have other shapes.
    """
    unet = unet_config(header, variant)
    refuse_channels(unet["in_channels"], name)
    if not variant.reads_sizes and header.has(f"{UNET}label_emb."):
        raise ModelError("is an unCLIP model, which generates from an image", name, "Use its base model")
    unet["sample_size"] = variant.sizes[prediction[0] == "v_prediction"]
    scheduler = {**SCHEDULER, "prediction_type": prediction[0], "rescale_betas_zero_snr": "ztsnr" in header.shapes}
    factor = variant.scaling_factor
    return {
        "model_index": {"_class_name": "StableDiffusionPipeline"},
        "unet": unet,
        "vae": vae_config(header, VAE, factor) if header.has(VAE) else {"scaling_factor": factor},
        "scheduler": scheduler,
        "origin": {"prediction": prediction[1]},
        **{encoder: text_config(header, start) for encoder, start in variant.texts.items()},
    }


def prefixes(family: str) -> dict[str, str]:
    """Return the prefix of each part's weights in a checkpoint of this family."""
    variant = next(variant for variant in VARIANTS if variant.family == family)
    return {"unet": UNET, "vae": VAE, **variant.texts}


def variant_of(header: Header, name: str) -> Variant:
    """Return the variant whose text encoders a checkpoint has. Raises ModelError if there is none."""
    for variant in VARIANTS:
        if all(has_encoder(header, start) for start in variant.texts.values()):
            return variant
    if header.has("conditioner.") and not has_encoder(header, XL_CLIP):
        raise refiner(name)
    raise ModelError("has no text encoder of Stable Diffusion 1.x, 2.x or XL", name, "Is the file complete?")


def has_encoder(header: Header, start: str) -> bool:
    """Return whether the file has the token table of the text encoder with the prefix `start`."""
    tables = [f"{start}{OPEN_TOKENS}"] if start in OPEN else [f"{start}{body}{TOKENS}" for body in BODIES]
    return any(table in header.shapes for table in tables)


def text_config(header: Header, start: str) -> dict[str, Any]:
    """Return the config of a text encoder, OpenAI's or OpenCLIP's."""
    return open_clip_config(header, start) if start in OPEN else clip_config(header, start)


def checkpoint_prediction(header: Header, v_parameterization: bool | None, sidecar: str) -> tuple[str, str]:
    """Return "epsilon" or "v_prediction", and where it was read (empty for a guess).

    `v_parameterization` is used if the file does not record it. `sidecar` is the text of the .yaml file beside it.
    """
    recorded = header.metadata.get("modelspec.prediction_type", "").lower()
    if recorded:
        return ("v_prediction" if recorded.startswith("v") else "epsilon"), "its metadata"
    if "v_pred" in header.shapes:  # a marker of some trainers
        return "v_prediction", "its key `v_pred`"
    if header.metadata.get("modelspec.architecture", "").startswith("stable-diffusion-v2-768-v"):
        return "v_prediction", "its metadata"
    found = PARAMETERIZATION.search(sidecar)
    if found:
        return ("v_prediction" if found[1] == "v" else "epsilon"), "the .yaml beside it"
    return ("v_prediction", BY_USER) if v_parameterization else ("epsilon", "")


def unet_config(header: Header, variant: Variant) -> dict[str, Any]:
    """Return the config of the U-Net: two layers per level, widths and depths from the shapes."""
    shapes = header.shapes
    starts = [
        block for block in (1, 4, 7, 10) if block == 1 or f"{UNET}input_blocks.{block}.0.out_layers.3.weight" in shapes
    ]
    widths = [shapes[f"{UNET}input_blocks.{block}.0.out_layers.3.weight"][0] for block in starts]
    depths = [layers(header, re.escape(f"{UNET}input_blocks.{b}.1.transformer_blocks.") + r"(\d+)\.") for b in starts]
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    first = f"{UNET}input_blocks.{next(b for b, depth in zip(starts, depths, strict=True) if depth)}.1."
    config = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": shapes[f"{UNET}input_blocks.0.0.weight"][1],
        "out_channels": shapes[f"{UNET}out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": 2,
        "down_block_types": down,
        "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
        "cross_attention_dim": shapes[f"{first}transformer_blocks.0.attn2.to_k.weight"][1],
        "attention_head_dim": variant.heads or [max(1, width // HEAD) for width in widths],
        "use_linear_projection": len(shapes[f"{first}proj_in.weight"]) == 2,
    }
    if variant.reads_sizes:
        config |= {
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "transformer_layers_per_block": [max(1, depth) for depth in depths],
            "projection_class_embeddings_input_dim": shapes[f"{UNET}label_emb.0.0.weight"][1],
        }  # fmt: skip
    return config


def layers(header: Header, pattern: str) -> int:
    """Return the number of layers, whose index is the group in `pattern`."""
    return header.count(lambda name: match[1] if (match := re.match(pattern, name)) else None)


def clip_config(header: Header, start: str) -> dict[str, Any]:
    """Return the config of OpenAI's text encoder."""
    body = next(body for body in BODIES if f"{start}{body}{TOKENS}" in header.shapes)
    vocab, width = header.shapes[f"{start}{body}{TOKENS}"]
    inner = f"{start}{body}encoder.layers."
    return {
        "model_type": "clip_text_model", "vocab_size": vocab, "hidden_size": width, "projection_dim": width,
        "num_attention_heads": max(1, width // HEAD), "hidden_act": "quick_gelu", "max_position_embeddings": 77,
        "num_hidden_layers": layers(header, re.escape(inner) + r"(\d+)\."),
        "intermediate_size": header.shapes[f"{inner}0.mlp.fc1.weight"][0],
        "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407,
    }  # fmt: skip


def open_clip_config(header: Header, start: str) -> dict[str, Any]:
    """Return the config of OpenCLIP's text encoder.

    Stable Diffusion 2.x does not use its last layer and projection, and some converters leave out both.
    """
    vocab, width = header.shapes[f"{start}{OPEN_TOKENS}"]
    block, projection = f"{start}transformer.resblocks.", f"{start}text_projection"
    unused = 1 if start == OPEN_CLIP and projection in header.shapes else 0
    return {
        "model_type": "clip_text_model", "vocab_size": vocab, "hidden_size": width,
        "projection_dim": header.shapes[projection][1] if start == XL_OPEN_CLIP else width // 2,
        "num_attention_heads": max(1, width // HEAD), "hidden_act": "gelu", "max_position_embeddings": 77,
        "num_hidden_layers": layers(header, re.escape(block) + r"(\d+)\.") - unused,
        "intermediate_size": header.shapes[f"{block}0.mlp.c_fc.weight"][0],
        "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 0,
    }  # fmt: skip
