"""Stable Diffusion XL (Podell et al. 2023): two CLIP text encoders, pooled text, size conditioning.

This module does not need torch.
"""

from __future__ import annotations

from neonym.models.defaults import published
from neonym.models.families.unet import (
    CHECKPOINT,
    FIRST,
    OTHER_SCHEDULES,
    SECOND,
    UNET,
    predicts_noise_or_v,
    reads_sizes,
    unet_facts,
)
from neonym.models.family import Configs, Family, LatentSpec, Recognised


def recognise(configs: Configs, name: str) -> Recognised | None:
    """Return the facts about an SDXL model, or None for any other model. Raises ModelError, TypeError, ValueError."""
    both = FIRST.name in configs and SECOND.name in configs
    if not predicts_noise_or_v(configs, name) or not both or not reads_sizes(configs[UNET.part]):
        return None
    return unet_facts(configs, 128)


SDXL = Family(
    name="sdxl",
    label="SDXL",
    encoders=(FIRST, SECOND),
    denoiser=UNET,
    latents=LatentSpec(scaling_factor=0.13025),
    process="diffusion",
    recognise=recognise,
    module="neonym.models.families.sdxl_network",
    pipeline="StableDiffusionXLPipeline",
    guidance=7.0,
    defaults=published(
        "SDXL",
        learning_rate=(2e-3, "invoke-training, diffusers"),
        max_train_steps=(2000, "invoke-training; diffusers 500"),
        gpu_memory=(30, "computed for four images of 1024 pixels a side (benchmarks/fits.py)"),
    ),
    architectures=dict.fromkeys(("epsilon", "v_prediction"), "stable-diffusion-xl-v1-base"),
    checkpoint=CHECKPOINT,
    other_schedules=OTHER_SCHEDULES,
    flag="sdxl",
    reads_sizes=True,
    fixed_text_layer=True,
    clip_skip_note=("SDXL always uses the second-to-last layer, so it has no effect", ""),
    vae_overflows=True,
    one_rate=True,
    latent_cache_suffix="_sdxl.npz",
    programs=None,
)
