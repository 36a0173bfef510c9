"""Z-Image (Alibaba 2025): a rectified flow over one stream of caption and image tokens, with Qwen3 as text encoder.

This module does not need torch.
"""

from __future__ import annotations

import re

from neonym.errors import ModelError
from neonym.models.defaults import published
from neonym.models.families.z_image_names import FILES, SAME_SHAPES
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

LAYOUT = SequenceSpec(
    template=("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"), masked=True, brackets="text"
)
QWEN = EncoderSpec(
    "text_encoder", "Qwen3Model", "qwen3_4b", kind="causal_lm", width=2560, max_length=512, layout=LAYOUT,
    blocks_read=-1,
)  # fmt: skip
ENCODERS = (QWEN,)
TRANSFORMER = DenoiserSpec(
    "transformer", "ZImageTransformer2DModel",
    not_quantized=("t_embedder", "cap_embedder", "all_x_embedder", "all_final_layer", ".adaLN_modulation"),
    blocks=("noise_refiner", "context_refiner", "layers"),
)  # fmt: skip

TURBO = re.compile(r"(?<!de)(?<!de[-_ ])turbo")  # De-Turbo is not distilled


def recognise(configs: Configs, name: str) -> Recognised | None:
    """Return the facts about a Z-Image model, or None for any other model.

    The weights of the base and of Turbo have the same shapes, so the name decides. Raises ModelError for Omni, which
    edits images.
    """
    transformer = configs.get(TRANSFORMER.part, {})
    if transformer.get("_class_name") != TRANSFORMER.module:
        return None
    if transformer.get("siglip_feat_dim") is not None:
        raise ModelError("is a Z-Image Omni model, which also reads images", name, "Use Z-Image or Z-Image Turbo")
    layers = int(configs.get(QWEN.name, {}).get("num_hidden_layers", 36))
    if TURBO.search(called(configs, name)):
        return Recognised(native_size=1024, text_layers=layers, guidance=1.0, steps=9)
    return Recognised(native_size=1024, text_layers=layers)


Z_IMAGE = Family(
    name="zimage",
    label="Z-Image",
    encoders=ENCODERS,
    denoiser=TRANSFORMER,
    latents=LatentSpec(channels=16, multiple=16, scaling_factor=0.3611, shift_factor=0.1159, patch=2),
    process="flow",
    flow=FlowSpec("logit_normal", 2.0, source="musubi-tuner; OneTrainer draws the same, but does not shift it"),
    recognise=recognise,
    versions=lambda _: SAME_SHAPES,
    files=FILES,
    module="neonym.models.families.z_image_network",
    pipeline="ZImagePipeline",
    guidance=5.0,
    defaults=published(
        "Z-Image",
        learning_rate=(2e-3, "as for SDXL: no rate for Z-Image is published"),
        max_train_steps=(2000, "as for SDXL: no number for Z-Image is published"),
        mixed_precision=("bf16, else no", "it was trained in bf16"),
        gpu_memory=(32, "estimated: weights of 20 GB in bf16, and activations at 1024 pixels"),
    ),
    architectures={"velocity": "z-image"},
    fixed_text_layer=True,
    no_clip_skip="Z-Image has no CLIP encoder",
)
