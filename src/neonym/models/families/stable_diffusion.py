"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022): one CLIP text encoder, a U-Net with cross-attention.

This module does not need torch.
"""

from __future__ import annotations

from dataclasses import replace

from neonym.models.defaults import published
from neonym.models.families.unet import (
    CHECKPOINT,
    FIRST,
    MORE_CONDITIONS,
    ONLY,
    OTHER_SCHEDULES,
    SECOND,
    UNET,
    predicts_noise_or_v,
    unet_facts,
)
from neonym.models.family import Configs, Family, LatentSpec, Recognised


def recognise_first(configs: Configs, name: str) -> Recognised | None:
    """Return the facts about a Stable Diffusion 1.x model, or None for any other.

    Raises ModelError, TypeError, ValueError.
    """
    return unet_facts(configs, 64) if is_stable_diffusion(configs, name) and not has_open_clip(configs) else None


def recognise_second(configs: Configs, name: str) -> Recognised | None:
    """Return the facts about a Stable Diffusion 2.x model, or None for any other.

    Raises ModelError, TypeError, ValueError.
    """
    return unet_facts(configs, 64) if is_stable_diffusion(configs, name) and has_open_clip(configs) else None


def is_stable_diffusion(configs: Configs, name: str) -> bool:
    """Return whether a model has a single CLIP text encoder and a U-Net with no other conditions. Raises ModelError."""
    unet, text = configs.get(UNET.part, {}), configs.get(FIRST.name, {})
    single = SECOND.name not in configs and all(unet.get(condition) is None for condition in MORE_CONDITIONS)
    return predicts_noise_or_v(configs, name) and single and text.get("model_type") == "clip_text_model"


def has_open_clip(configs: Configs) -> bool:
    """Return whether the text encoder is OpenCLIP's, by its width or its activation."""
    text = configs[FIRST.name]
    return text.get("hidden_size") == 1024 or text.get("hidden_act") == "gelu"


SD1 = Family(
    name="sd1",
    label="Stable Diffusion 1.x",
    encoders=(ONLY,),
    denoiser=UNET,
    latents=LatentSpec(scaling_factor=0.18215),
    process="diffusion",
    recognise=recognise_first,
    module="neonym.models.families.stable_diffusion_network",
    pipeline="StableDiffusionPipeline",
    guidance=7.5,
    defaults=published(
        "Stable Diffusion 1.x",
        learning_rate=(4e-3, "invoke-training; AUTOMATIC1111 and the paper's code 5e-3, diffusers 2e-3"),
        max_train_steps=(2000, "invoke-training, InvokeAI 2,000-3,000, diffusers 3,000"),
        gpu_memory=(6, "computed for four images of 512 pixels a side (benchmarks/fits.py)"),
    ),
    architectures={"epsilon": "stable-diffusion-v1", "v_prediction": "stable-diffusion-v1"},
    checkpoint=CHECKPOINT,
    flag="v1",
    other_schedules=OTHER_SCHEDULES,
    latent_cache_suffix="_sd.npz",
    programs=None,
)
SD2 = replace(
    SD1,
    name="sd2",
    label="Stable Diffusion 2.x",
    encoders=(replace(ONLY, width=1024),),
    recognise=recognise_second,
    defaults=published(
        "Stable Diffusion 2.x",
        learning_rate=(4e-3, "as for 1.x: InvokeAI gives one range for both, 5e-4 to 5e-3"),
        max_train_steps=(2000, "InvokeAI 2,000-3,000"),
        mixed_precision=("bf16, else no", "users report NaN in fp16, in which the attention of 2.1 overflows"),
        gpu_memory=(10, "computed for four images of 768 pixels a side (benchmarks/fits.py)"),
    ),
    architectures={"epsilon": "stable-diffusion-v2-512", "v_prediction": "stable-diffusion-v2-768-v"},
    flag="v2",
    clip_skip_note=(
        "Stable Diffusion 2.x already leaves out the last layer, and programs rarely skip more",
        "Use the same value when you generate images",
    ),
    prediction_varies=True,
)
