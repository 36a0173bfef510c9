"""FLUX.2 klein (Black Forest Labs 2026): a rectified flow that reads three layers of Qwen3, padding included.

The caption is a chat turn with an empty thought. The sizes have text encoders of other widths, so each is a family of
its own. This module does not need torch.
"""

from __future__ import annotations

from functools import partial

from neonym.errors import ModelError
from neonym.models.defaults import published
from neonym.models.families.flux2_names import DEV, SAME_SHAPES, files_of
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

LAYOUT = SequenceSpec(
    template=("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    masked=True,
    brackets="text",
    comfyui_length=512,
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
LAYERS = (9, 18, 27)  # blocks of the text encoder after which its states are read
LARGE = 4096  # width of the text encoder of klein 9B


def qwen3(file_key: str, width: int) -> EncoderSpec:
    """Return the text encoder of a size of klein."""
    return EncoderSpec(
        "text_encoder", "Qwen3Model", file_key, kind="causal_lm", width=width, max_length=512, layout=LAYOUT,
        blocks_read=LAYERS[-1],
    )  # fmt: skip


KLEIN_4B, KLEIN_9B = (qwen3("qwen3_4b", 2560),), (qwen3("qwen3_8b", LARGE),)


def recognise(configs: Configs, name: str, large: bool) -> Recognised | None:
    """Return the facts about a model of FLUX.2 klein, 9B if it is `large`, or None for any other model.

    The base and the distilled model differ in their weights only, so the index of the model decides, or else its name.
    Raises ModelError for FLUX.2 dev.
    """
    transformer, encoder = configs.get(TRANSFORMER.part, {}), configs.get("text_encoder", {})
    if transformer.get("_class_name") != TRANSFORMER.module:
        return None
    if transformer.get("guidance_embeds", True):
        raise ModelError(DEV.what, name, DEV.fix)
    if large != (encoder.get("hidden_size") == LARGE):
        return None
    layers = int(encoder.get("num_hidden_layers", 36))
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


def klein(size: str, encoders: tuple[EncoderSpec, ...], gpu_memory: tuple[int, str]) -> Family:
    """Return the family of a size of klein."""
    label = f"FLUX.2 klein {size}"
    return Family(
        name=f"flux2_klein_{size.lower()}",
        label=label,
        encoders=encoders,
        denoiser=TRANSFORMER,
        latents=LATENTS,
        process="flow",
        flow=FlowSpec(
            "flux2_shift", 3.0, FLUX_LINE, rounds_sigma=True, source="musubi-tuner; OneTrainer draws the same"
        ),
        recognise=partial(recognise, large=encoders is KLEIN_9B),
        versions=lambda _: SAME_SHAPES,
        files=files_of(f"klein_{size.lower()}"),
        module="neonym.models.families.flux2_network",
        pipeline="Flux2KleinPipeline",
        guidance=4.0,
        defaults=published(
            label,
            learning_rate=(2e-3, "as for SDXL: no rate for FLUX.2 is published"),
            max_train_steps=(2000, "as for SDXL: no number for FLUX.2 is published"),
            mixed_precision=("bf16, else no", "it was trained in bf16"),
            gpu_memory=gpu_memory,
        ),
        architectures={"velocity": f"flux-2-klein-{size.lower()}"},
        fixed_text_layer=True,
        no_clip_skip="FLUX.2 has no CLIP encoder",
        mu=mu,
    )


FLUX2_KLEIN_4B = klein("4B", KLEIN_4B, (28, "estimated: weights of 16 GB in bf16, and activations at 1024 pixels"))
FLUX2_KLEIN_9B = klein("9B", KLEIN_9B, (48, "estimated: weights of 34 GB in bf16, and activations at 1024 pixels"))
