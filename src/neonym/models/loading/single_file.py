"""Stable Diffusion 1.x, 2.x and XL in one file, as CompVis and Stability published them and most people keep them.

What the model is follows from names and shapes alone.
"""

from __future__ import annotations

import re
from typing import Any

from neonym.errors import ModelError
from neonym.models.loading.unsupported import refiner, refuse_channels, refuse_others
from neonym.models.loading.weight_files import Header

UNET, VAE = "model.diffusion_model.", "first_stage_model."
AVERAGE = "model_ema.diffusion_model"  # names without dots
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
XL_CLIP, XL_OPEN_CLIP = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
TEXT = ("cond_stage_model.", "conditioner.")
TOKENS, OPEN_TOKENS = "embeddings.token_embedding.weight", "token_embedding.weight"
BODIES = ("text_model.", "")  # some files leave it out
PARAMETERIZATION = re.compile(r"""^\s*parameterization:\s*["']?(v|eps)\b""", re.MULTILINE)
BY_USER = "--v_parameterization"
HEAD = 64  # numbers of an attention head of CLIP, and of SD 2.x's U-Net
SCHEDULER = {
    "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip


def configs_of(
    header: Header, name: str, v_parameterization: bool | None, other_vae: bool = False, sidecar: str = ""
) -> dict[str, dict[str, Any]]:
    """The configs that a Diffusers folder of this model would have. Raises ModelError for what it is not.

    `other_vae`: its own VAE may be missing. `sidecar`: text of the .yaml beside it. What of file and sidecar do not say
    of the prediction type, `v_parameterization` decides.
    """
    refuse_others(header, name, UNET)
    missing = [
        what for what, there in (("U-Net", header.has(UNET)), ("VAE", other_vae or header.has(VAE))) if not there
    ]
    if missing:
        what = f"is no Stable Diffusion checkpoint: it has no {' and no '.join(missing)}"
        fix = "It has only a running average of one (model_ema.), which no program reads" if header.has(AVERAGE) else ""
        raise ModelError(what, name, "Give a VAE with --vae" if missing == ["VAE"] else fix)
    family = family_of(header, name)
    try:
        return described(header, family, name, prediction_type(header, v_parameterization, sidecar))
    except (KeyError, IndexError, StopIteration, ValueError, TypeError) as error:
        shown = str(error).strip("'") or "there is no attention"
        what = f"looks like {family}, but weights are missing or have other shapes ({shown})"
        raise ModelError(what, name, "Is the file complete?") from error


def described(header: Header, family: str, name: str, prediction: tuple[str, str]) -> dict[str, dict[str, Any]]:
    """Raises ModelError, KeyError, IndexError, StopIteration, ValueError, TypeError."""
    unet = unet_config(header, family)
    refuse_channels(unet["in_channels"], name)
    if family != "sdxl" and header.has(f"{UNET}label_emb."):
        raise ModelError("is an unCLIP, which is told a picture", name, "Use the model that it was made from")
    unet["sample_size"] = {"sd1": 64, "sd2": 96 if prediction[0] == "v_prediction" else 64, "sdxl": 128}[family]
    texts = {
        "sd1": {"text_encoder": lambda: clip_config(header, CLIP)},
        "sd2": {"text_encoder": lambda: open_clip_config(header, OPEN_CLIP)},
        "sdxl": {
            "text_encoder": lambda: clip_config(header, XL_CLIP),
            "text_encoder_2": lambda: open_clip_config(header, XL_OPEN_CLIP),
        },
    }[family]
    factor = 0.13025 if family == "sdxl" else 0.18215
    scheduler = {**SCHEDULER, "prediction_type": prediction[0], "rescale_betas_zero_snr": "ztsnr" in header.shapes}
    return {
        "model_index": {"_class_name": "StableDiffusionPipeline"},
        "unet": unet,
        "vae": vae_config(header, VAE, factor) if header.has(VAE) else {"scaling_factor": factor},
        "scheduler": scheduler,
        "said": {"prediction": prediction[1]},
        **{encoder: make() for encoder, make in texts.items()},
    }


def starts(family: str) -> dict[str, str]:
    """What the names of each part's weights begin with."""
    texts = {
        "sd1": {"text_encoder": CLIP},
        "sd2": {"text_encoder": OPEN_CLIP},
        "sdxl": {"text_encoder": XL_CLIP, "text_encoder_2": XL_OPEN_CLIP},
    }
    return {"unet": UNET, "vae": VAE, **texts[family]}


def family_of(header: Header, name: str) -> str:
    """By the text encoders. Raises ModelError."""
    clip, xl_clip = (any(f"{start}{body}{TOKENS}" in header.shapes for body in BODIES) for start in (CLIP, XL_CLIP))
    if xl_clip and f"{XL_OPEN_CLIP}{OPEN_TOKENS}" in header.shapes:
        return "sdxl"
    if f"{OPEN_CLIP}{OPEN_TOKENS}" in header.shapes:
        return "sd2"
    if clip:
        return "sd1"
    if header.has("conditioner.") and not xl_clip:
        raise refiner(name)
    raise ModelError("has no text encoder of Stable Diffusion 1.x, 2.x or XL", name, "Is the file complete?")


def prediction_type(header: Header, v_parameterization: bool | None, sidecar: str) -> tuple[str, str]:
    """-> "epsilon" or "v_prediction", and what says so: nothing for a guess. The user is obeyed where the file is silent."""
    told = header.metadata.get("modelspec.prediction_type", "").lower()
    if told:
        return ("v_prediction" if told.startswith("v") else "epsilon"), "its metadata"
    if "v_pred" in header.shapes:  # a marker that some trainers write
        return "v_prediction", "its key `v_pred`"
    if header.metadata.get("modelspec.architecture", "").startswith("stable-diffusion-v2-768-v"):
        return "v_prediction", "its metadata"
    found = PARAMETERIZATION.search(sidecar)
    if found:
        return ("v_prediction" if found[1] == "v" else "epsilon"), "the .yaml beside it"
    return ("v_prediction", BY_USER) if v_parameterization else ("epsilon", "")


def unet_config(header: Header, family: str) -> dict[str, Any]:
    """Levels of two layers each; widths and depths from the shapes."""
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
        "attention_head_dim": 8 if family == "sd1" else [max(1, width // HEAD) for width in widths],
        "use_linear_projection": len(shapes[f"{first}proj_in.weight"]) == 2,
    }
    if family == "sdxl":
        config |= {
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "transformer_layers_per_block": [max(1, depth) for depth in depths],
            "projection_class_embeddings_input_dim": shapes[f"{UNET}label_emb.0.0.weight"][1],
        }  # fmt: skip
    return config


def vae_config(header: Header, start: str, scaling_factor: float) -> dict[str, Any]:
    """Under its original names, or those of a Diffusers folder (with `start` empty). Raises KeyError."""
    level = re.compile(
        re.escape(start) + r"encoder\.(?:down\.(\d+)\.block|down_blocks\.(\d+)\.resnets)\.0\.conv1\.weight"
    )
    found = {int(match[1] or match[2]): shape[0] for n, shape in header.shapes.items() if (match := level.fullmatch(n))}
    if set(found) != set(range(len(found))) or not found:
        raise KeyError(f"{start}encoder.down")
    widths = [found[i] for i in range(len(found))]
    return {
        "_class_name": "AutoencoderKL", "block_out_channels": widths, "layers_per_block": 2, "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths), "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "scaling_factor": scaling_factor, "sample_size": 512,
    }  # fmt: skip


def layers(header: Header, pattern: str) -> int:
    """How many numbered layers there are."""
    return header.count(lambda name: match[1] if (match := re.match(pattern, name)) else None)


def clip_config(header: Header, start: str) -> dict[str, Any]:
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
    """OpenCLIP's. Of that of Stable Diffusion 2.x nothing uses the last layer and the projection; some converters leave out both."""
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
