"""FLUX.2 (Black Forest Labs 2025): a rectified flow that reads three layers of a language model, padding included.

The caption is a chat turn. The sizes have other text encoders, so each is a family of its own: dev has the text part of
Mistral Small 3, and klein has Qwen3, whose turn is followed by an empty thought. This module does not need torch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from neonym.models.defaults import published
from neonym.models.families.flux2_names import SAME_SHAPES, files_of
from neonym.models.family import (
    Configs,
    DenoiserSpec,
    EncoderSpec,
    Family,
    LatentSpec,
    Recognised,
    SequenceSpec,
    chosen,
)
from neonym.models.process.sigmas import FLUX_LINE, FlowSpec

QWEN_LAYOUT = SequenceSpec(
    template=("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    masked=True,
    brackets="text",
    comfyui_length=512,
)
SYSTEM = (
    "You are an AI that reasons about image descriptions. You give structured responses focusing on object relationships, "
    "object\nattribution and actions without speculation."
)
MISTRAL_LAYOUT = SequenceSpec(
    template=(f"<s>[SYSTEM_PROMPT]{SYSTEM}[/SYSTEM_PROMPT][INST]", "[/INST]"),
    padded="left",
    masked=True,
    brackets="text",
    comfyui_length=512,
    comfyui_zeros=0,
)
TRANSFORMER = DenoiserSpec(
    "transformer", "Flux2Transformer2DModel",
    not_quantized=(
        "time_guidance_embed", "double_stream_modulation", "single_stream_modulation", "x_embedder",
        "context_embedder", "norm_out", "proj_out",
    ),
    blocks=("transformer_blocks", "single_transformer_blocks"),
)  # fmt: skip
LATENTS = LatentSpec(channels=128, pixels=16, multiple=16, module="AutoencoderKLFlux2", folded=2)
QWEN = EncoderSpec(
    "text_encoder", "Qwen3Model", "qwen3_4b", kind="causal_lm", width=2560, max_length=512, layout=QWEN_LAYOUT,
    blocks_read=27,
)  # fmt: skip
QWEN_LARGE = replace(QWEN, file_key="qwen3_8b", width=4096)
MISTRAL = EncoderSpec(
    "text_encoder", "MistralModel", "mistral3_24b", kind="causal_lm", vocabulary="mistral3", width=5120, max_length=512,
    layout=MISTRAL_LAYOUT, blocks_read=30,
)  # fmt: skip


def layers_of(encoder: EncoderSpec) -> tuple[int, ...]:
    """Return the blocks of a text encoder after which its states are read: a third, two thirds, and the last."""
    assert encoder.blocks_read is not None
    return tuple(encoder.blocks_read * third // 3 for third in (1, 2, 3))


def encoder_of(configs: Configs) -> EncoderSpec | None:
    """Return the text encoder of a FLUX.2 model, or None for any other model. Only dev reads a guidance scale."""
    transformer = configs.get(TRANSFORMER.part, {})
    if transformer.get("_class_name") != TRANSFORMER.module:
        return None
    if transformer.get("guidance_embeds", True):
        return MISTRAL
    return QWEN_LARGE if configs.get(QWEN.name, {}).get("hidden_size") == QWEN_LARGE.width else QWEN


def recognise_dev(configs: Configs, name: str) -> Recognised | None:
    """Return the facts about FLUX.2 dev, or None for any other model."""
    del name
    if encoder_of(configs) is not MISTRAL:
        return None
    layers = int(configs.get(MISTRAL.name, {}).get("num_hidden_layers", 40))
    return Recognised(native_size=1024, text_layers=layers, embedded_guidance=4.0, steps=50)


def recognise_klein(configs: Configs, name: str, encoder: EncoderSpec) -> Recognised | None:
    """Return the facts about a model of FLUX.2 klein with this text encoder, or None for any other model.

    The base and the distilled model differ in their weights only, so the index of the model decides, or else its name.
    """
    if encoder_of(configs) is not encoder:
        return None
    layers = int(configs.get(encoder.name, {}).get("num_hidden_layers", 36))
    if is_distilled(configs, name.lower()):
        return Recognised(native_size=1024, text_layers=layers, guidance=1.0, steps=4)
    return Recognised(native_size=1024, text_layers=layers, steps=50)


def is_distilled(configs: Configs, name: str) -> bool:
    """Return whether a model is distilled: as the user or its file says, or its index, or its name, unless that has "base"."""
    if (choice := chosen(configs)) is not None:
        return choice == "distilled"
    said = configs.get("model_index", {}).get("is_distilled")
    return bool(said) if said is not None else "distilled" in name or ("klein" in name and "base" not in name)


def mu(tokens: float, steps: int) -> float:
    """Return the exponent of the shift of noise levels in generation.

    It was fitted by the model's authors: a line over the number of tokens for 10 steps and one for 200, and between
    them a line over the number of steps. Above 4,300 tokens, the number of steps makes no difference.
    """
    many = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return many
    few = 8.73809524e-05 * tokens + 1.89833333
    slope = (many - few) / 190
    return many - 200 * slope + slope * steps


def family(size: str, encoder: EncoderSpec, gpu_memory: tuple[int, str], **own: Any) -> Family:
    """Return the family of a size; `own` are the fields in which dev and klein differ."""
    label, variant = f"FLUX.2 {size}", size.lower().replace(" ", "_")
    return Family(
        name=f"flux2_{variant}",
        label=label,
        encoders=(encoder,),
        denoiser=TRANSFORMER,
        latents=LATENTS,
        process="flow",
        flow=FlowSpec(
            "flux2_shift", 3.0, FLUX_LINE, rounds_sigma=True, source="musubi-tuner; OneTrainer draws the same"
        ),
        files=files_of(variant),
        module="neonym.models.families.flux2_network",
        defaults=published(
            label,
            learning_rate=(2e-3, "as for SDXL: no rate for FLUX.2 is published"),
            max_train_steps=(2000, "as for SDXL: no number for FLUX.2 is published"),
            mixed_precision=("bf16, else no", "it was trained in bf16"),
            gpu_memory=gpu_memory,
        ),
        architectures={"velocity": f"flux-2-{size.lower().replace(' ', '-')}"},
        fixed_text_layer=True,
        no_clip_skip="FLUX.2 has no CLIP encoder",
        mu=mu,
        **own,
    )


def klein(size: str, encoder: EncoderSpec, gpu_memory: tuple[int, str]) -> Family:
    """Return the family of a size of klein."""
    recognise = partial(recognise_klein, encoder=encoder)
    return family(
        f"klein {size}", encoder, gpu_memory, recognise=recognise, versions=lambda _: SAME_SHAPES, guidance=4.0,
        pipeline="Flux2KleinPipeline",
    )  # fmt: skip


FLUX2_KLEIN_4B = klein("4B", QWEN, (28, "estimated: weights of 16 GB in bf16, and activations at 1024 pixels"))
FLUX2_KLEIN_9B = klein("9B", QWEN_LARGE, (48, "estimated: weights of 34 GB in bf16, and activations at 1024 pixels"))
FLUX2_DEV = family(
    "dev",
    MISTRAL,
    (120, "estimated: weights of 99 GB in bf16, and activations at 1024 pixels"),
    recognise=recognise_dev,
    guidance=1.0,
    pipeline="Flux2Pipeline",
    prompt_notes=("a word at the very beginning of a prompt needs a space before embedding:{name}",),
)
