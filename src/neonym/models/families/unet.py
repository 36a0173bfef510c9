"""Recognise models with a U-Net and CLIP text encoders by their configs. This module does not need torch."""

from __future__ import annotations

from typing import Any

from neonym.models.families.ldm_checkpoint import configs_of, prefixes, recognises
from neonym.models.families.unsupported import refiner, refuse_channels
from neonym.models.family import CheckpointLayout, Configs, DenoiserSpec, EncoderSpec, Recognised

UNET = DenoiserSpec(
    "unet", "UNet2DConditionModel", not_quantized=("conv_in", "conv_out", "time_embedding", "add_embedding")
)
CHECKPOINT = CheckpointLayout(recognises, configs_of, prefixes)
ONLY = EncoderSpec("text_encoder", "CLIPTextModel", "emb_params", ("emp_params", "clip_h", "clip_l"), width=768)
FIRST = EncoderSpec("text_encoder", "CLIPTextModel", "clip_l", ("text_encoders_0", "text_encoder"), width=768)
SECOND = EncoderSpec(
    "text_encoder_2", "CLIPTextModelWithProjection", "clip_g", ("text_encoders_1", "text_encoder_2"), width=1280,
    id_zero_pads=True,
)  # fmt: skip
# Config keys of conditions besides the text, such as those of unCLIP
MORE_CONDITIONS = ("addition_embed_type", "class_embed_type", "num_class_embeds")
PIXELS = 8  # pixels of an image's side per latent pixel
OTHER_SCHEDULES = ("EDM", "FlowMatch")  # Playground 2.5, CosXL, rectified flows


def predicts_noise_or_v(configs: Configs, name: str) -> bool:
    """Return whether the U-Net reads a noised latent and text, and predicts noise or v.

    Raises ModelError for related models that cannot generate from text alone: inpainting models, refiners.
    """
    unet = configs.get(UNET.part, {})
    if unet.get("_class_name") != UNET.module:
        return False
    refuse_channels(unet.get("in_channels", 4), name)
    if reads_sizes(unet) and SECOND.name in configs and FIRST.name not in configs:
        raise refiner(name)
    return prediction_type(configs) in ("epsilon", "v_prediction")


def reads_sizes(unet: dict[str, Any]) -> bool:
    """Return whether a U-Net is conditioned on pooled text and on the sizes of images."""
    return unet.get("addition_embed_type") == "text_time"


def prediction_type(configs: Configs) -> str:
    """Return the prediction type in the scheduler's config, "epsilon" if there is none."""
    return configs.get("scheduler", {}).get("prediction_type", "epsilon")


def unet_facts(configs: Configs, side: int) -> Recognised:
    """Return the facts in the configs. `side` is the latent size to assume if the U-Net's config has none."""
    return Recognised(
        native_size=PIXELS * int(configs[UNET.part].get("sample_size") or side),
        text_layers=int(configs[FIRST.name].get("num_hidden_layers", 12)),
        prediction_type=prediction_type(configs),
        prediction_from=str(configs["origin"]["prediction"]) if "origin" in configs else "its scheduler's config",
    )
