"""Anima (CircleStone Labs 2026): a rectified flow in the layout of Cosmos-Predict2, which reads ids of T5 and Qwen3.

An adapter turns ids of T5 into states of the text, which attend to the states of Qwen3. This module does not need torch.
"""

from __future__ import annotations

from neonym.errors import ModelError
from neonym.models.defaults import published
from neonym.models.families.anima_names import FILES
from neonym.models.family import Configs, DenoiserSpec, EncoderSpec, Family, LatentSpec, Recognised, SequenceSpec
from neonym.models.process.sigmas import FlowSpec

QWEN = EncoderSpec(
    "text_encoder", "Qwen3Model", "qwen3_06b", kind="causal_lm", width=1024, max_length=512,
    layout=SequenceSpec(masked=True, full_length=False, brackets="split", comfyui_length=1),
)  # fmt: skip
ENCODERS = (QWEN,)
# The adapter has its own table of T5's ids. ComfyUI puts id 0 in the place of each vector of a word.
T5 = EncoderSpec(
    "t5_tokenizer", "", "", kind="t5", max_length=512,
    layout=SequenceSpec(masked=True, full_length=False, word_id=0),
)  # fmt: skip
ID_READERS = (T5,)
ADAPTER = "text_conditioner"
TRANSFORMER = DenoiserSpec(
    "transformer", "CosmosTransformer3DModel", not_quantized=("patch_embed", "time_embed", "norm_out", "proj_out"),
    blocks=("transformer_blocks",),
)  # fmt: skip


def recognise(configs: Configs, name: str) -> Recognised | None:
    """Return the facts about an Anima model, or None for any other model.

    Raises ModelError for a model of Cosmos-Predict2, which has the same transformer but another objective.
    """
    if configs.get(TRANSFORMER.part, {}).get("_class_name") != TRANSFORMER.module:
        return None
    if ADAPTER not in configs:
        what = f"is a Cosmos model, not Anima: it has no `{ADAPTER}`, and its noise is of another kind"
        raise ModelError(what, name, "Use an Anima model")
    return Recognised(native_size=1024, text_layers=int(configs.get(QWEN.name, {}).get("num_hidden_layers", 28)))


ANIMA = Family(
    name="anima",
    label="Anima",
    encoders=ENCODERS,
    id_readers=ID_READERS,
    adapters={ADAPTER: "AnimaTextConditioner"},
    denoiser=TRANSFORMER,
    latents=LatentSpec(channels=16, multiple=16, module="AutoencoderKLQwenImage", patch=2),
    process="flow",
    flow=FlowSpec("sigmoid", source="sd-scripts; OneTrainer draws the same"),
    recognise=recognise,
    files=FILES,
    module="neonym.models.families.anima_network",
    pipeline="AnimaModularPipeline",
    guidance=4.0,
    defaults=published(
        "Anima",
        learning_rate=(2e-3, "as for SDXL: no rate for words of Anima is published"),
        max_train_steps=(2000, "as for SDXL: no number for Anima is published"),
        mixed_precision=("bf16, else no", "it was trained in bf16"),
        gpu_memory=(16, "estimated: weights of 6 GB in bf16, and activations at 1024 pixels"),
    ),
    architectures={"velocity": "anima"},
    fixed_text_layer=True,
    no_clip_skip="Anima has no CLIP encoder",
    prompt_notes=("0.33.0 and older fail at words of Anima",),
)
