"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): a rectified flow that attends to two CLIP encoders and T5.

This module does not need torch.
"""

from __future__ import annotations

from dataclasses import replace

from neonym.errors import ModelError
from neonym.models.defaults import published
from neonym.models.families.sd3_names import CHOICES, FILES
from neonym.models.family import (
    Configs,
    DenoiserSpec,
    EncoderSpec,
    Family,
    LatentSpec,
    OneEncoderFile,
    Recognised,
    SequenceSpec,
    called,
)
from neonym.models.process.sigmas import FlowSpec
from neonym.models.signatures import Choice

LAYOUT = SequenceSpec(repaired=False, chunks_in_comfyui=True)
CLIP_L = EncoderSpec(
    "text_encoder", "CLIPTextModelWithProjection", "clip_l", width=768, max_length=77,
    identities=("text_projection.weight",), layout=LAYOUT,
)  # fmt: skip
CLIP_G = EncoderSpec(
    "text_encoder_2", "CLIPTextModelWithProjection", "clip_g", width=1280, max_length=77,
    layout=replace(LAYOUT, pads_with=0),
)  # fmt: skip
T5 = EncoderSpec(
    "text_encoder_3", "T5EncoderModel", "t5xxl", kind="t5", width=4096, max_length=256, optional=True,
    layout=SequenceSpec(comfyui_length=77), twin_keys=("t5",),
)  # fmt: skip
ENCODERS = (CLIP_L, CLIP_G, T5)
TRANSFORMER = DenoiserSpec(
    "transformer", "SD3Transformer2DModel",
    not_quantized=("time_text_embed", "pos_embed", "context_embedder", "norm_out", "proj_out"),
    in_int8=(".norm",), blocks=("transformer_blocks",),
)  # fmt: skip
CHANNELS, PATCH, PIXELS = 16, 2, 8  # of latents; latents per token; pixels per latent
SKIPPED_BLOCKS = (7, 8, 9)  # by skip-layer guidance, as Stability AI recommends for 3.5 medium
POSITIONS = 192  # tokens per side, unless the config says otherwise
USE = "Use Stable Diffusion 3 medium, 3.5 medium or 3.5 large"


def recognise(configs: Configs, name: str) -> Recognised | None:
    """Return the facts about a Stable Diffusion 3 or 3.5 model, or None for any other model.

    The weights of 3.5 large and large turbo have the same shapes, so the name decides. Raises ModelError for a related
    model that does not generate from text alone.
    """
    transformer = configs.get(TRANSFORMER.part, {})
    if transformer.get("_class_name") != TRANSFORMER.module:
        return None
    refuse_other_tasks(transformer.get("in_channels", CHANNELS), configs.get("model_index", {}), name)
    is_medium = bool(transformer.get("dual_attention_layers")) and int(transformer.get("num_layers", 0)) > max(
        SKIPPED_BLOCKS
    )
    facts = Recognised(
        native_size=int(transformer.get("sample_size", 128)) * PIXELS,
        text_layers=int(configs.get(CLIP_L.name, {}).get("num_hidden_layers", 12)),
        steps=28,
        largest_side=int(transformer.get("pos_embed_max_size", POSITIONS)) * PATCH * PIXELS,
        skipped_blocks=SKIPPED_BLOCKS if is_medium else (),
    )
    if "turbo" in called(configs, name):
        return replace(facts, guidance=1.0, steps=4)
    return replace(facts, guidance=4.0) if transformer.get("qk_norm") else facts  # 3.5 norms queries and keys


def versions(configs: Configs) -> tuple[Choice, ...]:
    """Return the models of the same shapes as this one: 3.5 medium has blocks with a second attention, 3 has no norms."""
    transformer = configs[TRANSFORMER.part]
    if not transformer.get("qk_norm"):
        return ()
    return CHOICES["3.5_medium" if transformer.get("dual_attention_layers") else "3.5_large"]


def refuse_other_tasks(channels: int, index: dict[str, object], name: str) -> None:
    """Raise ModelError if a model reads an image besides the text, by its input channels or its pipeline."""
    if channels != CHANNELS:
        what = f"is a Stable Diffusion 3 model for another task: it takes {channels} channels, not {CHANNELS}"
        raise ModelError(what, name, USE)
    if "ControlNet" in str(index.get("_class_name")):
        raise ModelError("is a Stable Diffusion 3 model with a ControlNet, not for text alone", name, USE)


SD3 = Family(
    name="sd3",
    label="Stable Diffusion 3",
    encoders=ENCODERS,
    denoiser=TRANSFORMER,
    latents=LatentSpec(channels=CHANNELS, multiple=16, scaling_factor=1.5305, shift_factor=0.0609, patch=PATCH),
    process="flow",
    flow=FlowSpec("logit_normal", 3.0, source="Esser et al. 2024; OneTrainer draws the same, but does not shift it"),
    recognise=recognise,
    versions=versions,
    files=FILES,
    module="neonym.models.families.sd3_network",
    pipeline="StableDiffusion3Pipeline",
    guidance=7.0,
    defaults=published(
        "Stable Diffusion 3",
        learning_rate=(2e-3, "as for SDXL, which has the same CLIP encoders: no rate for 3 is published"),
        max_train_steps=(2000, "as for SDXL: no number for 3 is published"),
        mixed_precision=("bf16, else no", "T5 overflows in fp16"),
        gpu_memory=(40, "estimated for 3.5 large: weights of 27 GB in bf16, and activations at 1024 pixels"),
    ),
    architectures={"velocity": "stable-diffusion-3"},
    own_levels=True,
    fixed_text_layer=True,
    clip_skip_note=("Stable Diffusion 3 always uses the second-to-last layer, so it has no effect", ""),
    partial_words=True,
    one_encoder_files=(OneEncoderFile(CLIP_L.name, "Forge", False), OneEncoderFile(CLIP_G.name, "Forge", False)),
    programs=("ComfyUI", "Forge", "OneTrainer"),
)
