"""What the families with a U-Net and CLIP text encoders have in common, read from their configs. Needs no torch."""

from __future__ import annotations

from typing import Any

from neonym.models.families.ldm_checkpoint import configs_of, prefixes, recognises
from neonym.models.families.unsupported import refiner, refuse_channels
from neonym.models.family import CheckpointLayout, Configs, DenoiserSpec, EncoderSpec, Recognised

UNET = DenoiserSpec("unet", "UNet2DConditionModel")
CHECKPOINT = CheckpointLayout(recognises, configs_of, prefixes)
FIRST = EncoderSpec("text_encoder", "CLIPTextModel", "clip_l", width=768)
SECOND = EncoderSpec("text_encoder_2", "CLIPTextModelWithProjection", "clip_g", width=1280, id_zero_pads=True)
MORE_CONDITIONS = ("addition_embed_type", "class_embed_type", "num_class_embeds")  # of a U-Net: unCLIP has them
PIXELS = 8  # of an image's side per latent
OTHER_SCHEDULES = ("EDM", "FlowMatch")  # Playground 2.5, CosXL, rectified flows


def predicts_noise_or_v(configs: Configs, name: str) -> bool:
    """Return whether the U-Net is given a noised latent and text, and predicts noise or v.

    Raises ModelError for relatives that generate nothing from text alone: inpainting models, refiners.
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
    """Return what the scheduler's config says that the U-Net predicts: noise, if it says nothing."""
    return configs.get("scheduler", {}).get("prediction_type", "epsilon")


def recognised(configs: Configs, side: int) -> Recognised:
    """Return the facts in the configs; `side`: that of the family's latents, where the config of the U-Net says none."""
    return Recognised(
        native_size=PIXELS * int(configs[UNET.part].get("sample_size") or side),
        text_layers=int(configs[FIRST.name].get("num_hidden_layers", 12)),
        prediction_type=prediction_type(configs),
        prediction_from=str(configs["said"]["prediction"]) if "said" in configs else "its scheduler's config",
    )
