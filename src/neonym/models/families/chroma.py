"""Chroma (Lodestone Rock 2025): FLUX.1 without CLIP, whose transformer reads T5's states without their padding.

This module does not need torch.
"""

from __future__ import annotations

from neonym.errors import ModelError
from neonym.models.defaults import published
from neonym.models.families.chroma_names import FILES, SAME_SHAPES
from neonym.models.family import (
    Configs,
    DenoiserSpec,
    EncoderSpec,
    Family,
    LatentSpec,
    Recognised,
    SequenceSpec,
    called,
)
from neonym.models.process.sigmas import FlowSpec

T5 = EncoderSpec(
    "text_encoder", "T5EncoderModel", "t5xxl", kind="t5", width=4096, max_length=512,
    layout=SequenceSpec(masked=True), twin_keys=("t5",),
)  # fmt: skip
ENCODERS = (T5,)
TRANSFORMER = DenoiserSpec(
    "transformer", "ChromaTransformer2DModel",
    not_quantized=("distilled_guidance_layer", "x_embedder", "context_embedder", "norm_out", "proj_out"),
    blocks=("transformer_blocks", "single_transformer_blocks"),
)  # fmt: skip
CHANNELS = 64  # of a token: 2 x 2 latents of 16 channels
USE = "Use Chroma1-HD or Chroma1-Base"


def recognise(configs: Configs, name: str) -> Recognised | None:
    """Return the facts about a Chroma model, or None for any other model.

    The weights of Base, HD and Flash have the same shapes, so the name decides. Raises ModelError for a related model
    that does not generate from text alone, or that generates pixels.
    """
    transformer, pipeline = configs.get(TRANSFORMER.part, {}), configs.get("model_index", {}).get("_class_name", "")
    kind = str(transformer.get("_class_name", ""))
    if "ChromaRadiance" in f"{kind} {pipeline}":
        raise ModelError("is Chroma Radiance, which generates pixels without latents", name, USE)
    if kind != TRANSFORMER.module:
        return None
    channels = transformer.get("in_channels", CHANNELS)
    if channels != CHANNELS or "Control" in pipeline:
        task = f"it takes {channels} channels, not {CHANNELS}" if channels != CHANNELS else "it follows a control image"
        raise ModelError(f"is a Chroma model for another task than text-to-image: {task}", name, USE)
    layers = int(configs.get(T5.name, {}).get("num_layers", 24))
    if "flash" in called(configs, name):
        return Recognised(native_size=1024, text_layers=layers, guidance=1.0, steps=35)
    return Recognised(native_size=1024, text_layers=layers, steps=35)


CHROMA = Family(
    name="chroma",
    label="Chroma",
    encoders=ENCODERS,
    denoiser=TRANSFORMER,
    latents=LatentSpec(channels=16, multiple=16, scaling_factor=0.3611, shift_factor=0.1159, patch=2),
    process="flow",
    flow=FlowSpec("sigmoid", rounds_sigma=True, source="sd-scripts; OneTrainer draws sigma from an inverted parabola"),
    recognise=recognise,
    versions=lambda _: SAME_SHAPES,
    files=FILES,
    module="neonym.models.families.chroma_network",
    pipeline="ChromaPipeline",
    guidance=5.0,
    defaults=published(
        "Chroma",
        learning_rate=(2e-3, "as for SDXL: no rate for Chroma is published"),
        max_train_steps=(2000, "as for SDXL: no number for Chroma is published"),
        mixed_precision=("bf16, else no", "T5 overflows in fp16"),
        gpu_memory=(40, "estimated: weights of 27 GB in bf16, and activations at 1024 pixels"),
    ),
    architectures={"velocity": "chroma"},
    fixed_text_layer=True,
    no_clip_skip="Chroma has no CLIP encoder",
    programs=("ComfyUI", "diffusers", "OneTrainer"),
)
