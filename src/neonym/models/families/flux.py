"""FLUX.1 (Black Forest Labs 2024): a rectified flow that reads CLIP's pooled text and T5's states.

This module does not need torch.
"""

from __future__ import annotations

from neonym.errors import ModelError
from neonym.models.defaults import published
from neonym.models.families.flux_names import FILES, SAME_SHAPES
from neonym.models.family import (
    Configs,
    DenoiserSpec,
    DiffusersSetup,
    EncoderSpec,
    Family,
    LatentSpec,
    OneEncoderFile,
    Recognised,
    SequenceSpec,
)
from neonym.models.process.sigmas import FLUX_LINE, FlowSpec

DEV_LENGTH, SCHNELL_LENGTH = 512, 256  # ids of T5; padding is read like text, so the number matters
CLIP = EncoderSpec(
    "text_encoder", "CLIPTextModel", "clip_l", width=768, max_length=77, layout=SequenceSpec(repaired=False)
)
# ComfyUI reads `t5xxl`; OneTrainer and diffusers' scripts read and write `t5`. Each takes only the key that it knows, so
# both can be in one file. ComfyUI would take another tensor only in a file without its own key.
T5 = EncoderSpec(
    "text_encoder_2", "T5EncoderModel", "t5xxl", kind="t5", width=4096, max_length=DEV_LENGTH,
    layout=SequenceSpec(comfyui_length=256), twin_keys=("t5",),
)  # fmt: skip
ENCODERS = (CLIP, T5)
TRANSFORMER = DenoiserSpec(
    "transformer", "FluxTransformer2DModel",
    not_quantized=("time_text_embed", "x_embedder", "context_embedder", "norm_out", "proj_out"),
    in_int8=(".norm",), blocks=("transformer_blocks", "single_transformer_blocks"),
)  # fmt: skip
CHANNELS = 64  # of a token: 2 x 2 latents of 16 channels
# In the published config, the end is 2. transformers then pools at the largest id, which is a vector of the new word.
# It copies the number from the config when the model is made, so changing the config afterwards does nothing
POOL_AT_END = DiffusersSetup(
    "CLIP pools at the word instead of the end of the prompt, unless its eos_token_id is set to 49407",
    "for module in pipe.text_encoder.modules():\n    module.eos_token_id = 49407",
)
OTHER_TASKS = {  # pipeline -> what its model is for
    "FluxFillPipeline": "inpainting", "FluxControlPipeline": "images with a depth map or edges",
    "FluxKontextPipeline": "editing images", "FluxPriorReduxPipeline": "variations of an image",
}  # fmt: skip


def recognise(configs: Configs, name: str) -> Recognised | None:
    """Return the facts about a FLUX.1 model, or None for any other model.

    Raises ModelError for a related model that does not generate from text alone.
    """
    transformer = configs.get(TRANSFORMER.part, {})
    if transformer.get("_class_name") != TRANSFORMER.module:
        return None
    pipeline, channels = configs.get("model_index", {}).get("_class_name", ""), transformer.get("in_channels", CHANNELS)
    if pipeline in OTHER_TASKS or channels != CHANNELS:
        task = OTHER_TASKS.get(pipeline, f"another task: it takes {channels} channels, not {CHANNELS}")
        raise ModelError(f"is a FLUX.1 model for {task}, not for text-to-image", name, "Use FLUX.1 dev or schnell")
    layers = int(configs.get(CLIP.name, {}).get("num_hidden_layers", 12))
    if transformer.get("guidance_embeds"):  # dev
        return Recognised(native_size=1024, text_layers=layers, embedded_guidance=3.5, steps=28)
    lengths = {T5.name: SCHNELL_LENGTH}
    return Recognised(native_size=1024, text_layers=layers, steps=4, text_lengths=lengths)


FLUX1 = Family(
    name="flux1",
    label="FLUX.1",
    encoders=ENCODERS,
    denoiser=TRANSFORMER,
    latents=LatentSpec(channels=16, multiple=16, scaling_factor=0.3611, shift_factor=0.1159, patch=2),
    process="flow",
    flow=FlowSpec(
        "flux_shift", 3.0, FLUX_LINE, rounds_sigma=True, source="sd-scripts' guide; OneTrainer draws the same"
    ),
    recognise=recognise,
    versions=lambda configs: SAME_SHAPES if configs[TRANSFORMER.part].get("guidance_embeds") else (),
    files=FILES,
    module="neonym.models.families.flux_network",
    pipeline="FluxPipeline",
    guidance=1.0,
    defaults=published(
        "FLUX.1",
        learning_rate=(2e-3, "as for SDXL, which has the same CLIP encoder: no rate for FLUX.1 is published"),
        max_train_steps=(2000, "as for SDXL: no number for FLUX.1 is published"),
        mixed_precision=("bf16, else no", "T5 overflows in fp16"),
        gpu_memory=(48, "estimated: weights of 33 GB in bf16, and activations at 1024 pixels"),
    ),
    architectures={"velocity": "flux-1-dev"},
    fixed_text_layer=True,
    no_clip_skip="FLUX.1 reads only CLIP's pooled text",
    partial_words=True,
    one_encoder_files=(OneEncoderFile(CLIP.name, "Forge"),),
    programs=("ComfyUI", "Forge", "Forge Neo", "diffusers", "OneTrainer"),
    prompt_notes=(
        "keep the word among the first 75 tokens of CLIP: what comes after them does not reach its part",
        "a weight, such as (embedding:{name}:1.2), changes only the part of T5",
    ),
    diffusers_setup=POOL_AT_END,
)
