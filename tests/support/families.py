"""Tiny random models of the families, in Diffusers' layout, with the real vocabularies."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import (
    AnimaTextConditioner,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ChromaTransformer2DModel,
    CosmosTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    PreTrainedTokenizerFast,
    Qwen2TokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from neonym.models.source import BUILTIN_MODELS
from neonym.models.tokenizers.shipped import shipped

CLIP_VOCABULARY = BUILTIN_MODELS / "emoji" / "tokenizer"
SIDE = 32  # pixels, of images that tests train on: 2 x 2 tokens
WIDTH = 64  # of vectors: files of test models have multiples of it

CHAT = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""

INSTRUCT = """{{ bos_token }}{% for m in messages %}{% set text = m.content[0].text %}{% if m.role == 'system' %}\
[SYSTEM_PROMPT]{{ text }}[/SYSTEM_PROMPT]{% else %}[INST]{{ text }}[/INST]{% endif %}{% endfor %}"""

Clip = TypeVar("Clip", CLIPTextModel, CLIPTextModelWithProjection)
Qwen = TypeVar("Qwen", Qwen3Model, Qwen3ForCausalLM)
# Component -> what has `save_pretrained`, or a folder that is copied; "facts" are more entries of the index
Parts = dict[str, Any]


def t5_tokenizer() -> T5TokenizerFast:
    """Return T5's tokenizer."""
    return T5TokenizerFast(tokenizer_object=shipped("t5").backend, model_max_length=512)


def qwen_tokenizer() -> Qwen2TokenizerFast:
    """Return Qwen3's tokenizer, with a template that lays out one turn as Qwen3's does."""
    marks: dict[str, Any] = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": CHAT}
    return Qwen2TokenizerFast(tokenizer_object=shipped("qwen3").backend, **marks)


def mistral_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of Mistral Small 3, with a template that lays out one turn as its own does."""
    marks: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    backend = shipped("mistral3").backend
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", chat_template=INSTRUCT, **marks)


def tiny_clip(width: int = WIDTH, kind: type[Clip] = CLIPTextModel) -> Clip:
    """Return a CLIP encoder with the `eos_token_id` of published configs, at which transformers pools wrongly."""
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=64, projection_dim=width, num_hidden_layers=2,
        num_attention_heads=2, bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    return kind(config)


def tiny_t5(width: int = WIDTH, layers: int = 2) -> T5EncoderModel:
    """Return T5 v1.1 with its table of 32,128 rows."""
    config = T5Config(
        vocab_size=32128, d_model=width, d_kv=8, d_ff=48, num_layers=layers, num_heads=4, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )  # fmt: skip
    return T5EncoderModel(config)


def tiny_qwen(width: int = WIDTH, layers: int = 3, kind: type[Qwen] = Qwen3Model) -> Qwen:
    """Return Qwen3 with its table of 151,936 rows."""
    config = Qwen3Config(
        vocab_size=151936, hidden_size=width, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    return kind(config)


def tiny_mistral(width: int = WIDTH, layers: int = 31) -> Mistral3ForConditionalGeneration:
    """Return Mistral Small 3 with its table of 131,072 rows, and a part that sees images."""
    text = MistralConfig(
        vocab_size=131072, hidden_size=width, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, head_dim=128, max_position_embeddings=1024, rms_norm_eps=1e-5, sliding_window=None,
        rope_parameters={"rope_theta": 1e9, "rope_type": "default"}, tie_word_embeddings=False,
    )  # fmt: skip
    vision = PixtralVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    return Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision))


def tiny_vae(scaling_factor: float = 0.3611, shift_factor: float = 0.1159, channels: int = 16) -> AutoencoderKL:
    """Return a VAE with the normalisation of FLUX.1's."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), latent_channels=channels, norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=scaling_factor, shift_factor=shift_factor, sample_size=64, use_quant_conv=False,
        use_post_quant_conv=False,
    )  # fmt: skip


def flux_parts(guidance: bool = True) -> Parts:
    """Return the parts of FLUX.1 dev, or of schnell without `guidance`."""
    transformer = FluxTransformer2DModel(
        num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH, axes_dims_rope=(4, 6, 6), guidance_embeds=guidance,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0 if guidance else 1.0, use_dynamic_shifting=guidance)
    return {
        "model_index": "FluxPipeline", "transformer": transformer, "scheduler": scheduler, "vae": tiny_vae(),
        "text_encoder": tiny_clip(), "tokenizer": CLIP_VOCABULARY,
        "text_encoder_2": tiny_t5(), "tokenizer_2": t5_tokenizer(),
    }  # fmt: skip


def chroma_parts() -> Parts:
    """Return the parts of Chroma."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what diffusers itself uses
        transformer = ChromaTransformer2DModel(
            num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=64,
            axes_dims_rope=(4, 6, 6), approximator_hidden_dim=32, approximator_layers=1,
        )  # fmt: skip
    return {
        "model_index": "ChromaPipeline", "transformer": transformer, "scheduler": FlowMatchEulerDiscreteScheduler(),
        "vae": tiny_vae(), "text_encoder": tiny_t5(), "tokenizer": t5_tokenizer(),
    }  # fmt: skip


def sd3_parts(newer: bool = True, t5: bool = True, layers: int = 2) -> Parts:
    """Return the parts of Stable Diffusion 3.5 medium, or of 3 medium unless `newer`."""
    transformer = SD3Transformer2DModel(
        sample_size=8, num_layers=layers, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=192,
        caption_projection_dim=32, pooled_projection_dim=192, pos_embed_max_size=12,
        dual_attention_layers=(0,) if newer else (), qk_norm="rms_norm" if newer else None,
    )  # fmt: skip
    return {
        "model_index": "StableDiffusion3Pipeline", "transformer": transformer, "vae": tiny_vae(1.5305, 0.0609),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "text_encoder": tiny_clip(kind=CLIPTextModelWithProjection), "tokenizer": CLIP_VOCABULARY,
        "text_encoder_2": tiny_clip(128, CLIPTextModelWithProjection),
        "tokenizer_2": CLIPTokenizer.from_pretrained(CLIP_VOCABULARY, pad_token="!"),
        "text_encoder_3": tiny_t5(192) if t5 else None, "tokenizer_3": t5_tokenizer() if t5 else None,
    }  # fmt: skip


def z_image_parts() -> Parts:
    """Return the parts of Z-Image."""
    transformer = ZImageTransformer2DModel(
        dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH, axes_dims=[4, 6, 6],
        axes_lens=[1024, 64, 64],
    )  # fmt: skip
    with torch.no_grad():  # left as they are in memory by diffusers
        for pad in (transformer.x_pad_token, transformer.cap_pad_token):
            pad.normal_(0, 0.1)
    return {
        "model_index": "ZImagePipeline", "transformer": transformer, "vae": tiny_vae(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0), "text_encoder": tiny_qwen(),
        "tokenizer": qwen_tokenizer(),
    }  # fmt: skip


def flux2_parts(distilled: bool = False) -> Parts:
    """Return the parts of FLUX.2 klein 4B, the base model or the distilled one."""
    encoder = tiny_qwen(64, layers=29, kind=Qwen3ForCausalLM)
    return {
        "model_index": "Flux2KleinPipeline", "facts": {"is_distilled": distilled},
        **flux2_denoiser(guidance=False), "text_encoder": encoder, "tokenizer": qwen_tokenizer(),
    }  # fmt: skip


def flux2_dev_parts() -> Parts:
    """Return the parts of FLUX.2 dev."""
    return {
        "model_index": "Flux2Pipeline", **flux2_denoiser(guidance=True), "text_encoder": tiny_mistral(),
        "tokenizer": mistral_tokenizer(),
    }  # fmt: skip


def flux2_denoiser(guidance: bool) -> Parts:
    """Return the transformer, the VAE and the scheduler of FLUX.2, whose dev reads a guidance scale."""
    transformer = Flux2Transformer2DModel(
        in_channels=32, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=192, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=guidance,
    )  # fmt: skip
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8), latent_channels=8, norm_num_groups=4, layers_per_block=1, sample_size=64
    )
    with torch.no_grad():  # the normalisation of an untrained batch norm is none
        statistics = dict(vae.bn.named_buffers())
        statistics["running_mean"].normal_()
        statistics["running_var"].uniform_(0.5, 2)
    return {
        "transformer": transformer, "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    }  # fmt: skip


def anima_parts() -> Parts:
    """Return the parts of Anima."""
    transformer = CosmosTransformer3DModel(
        in_channels=16, out_channels=16, num_attention_heads=2, attention_head_dim=16, num_layers=2, mlp_ratio=2.0,
        text_embed_dim=32, adaln_lora_dim=8, max_size=(4, 32, 32), rope_scale=(1.0, 4.0, 4.0),
        extra_pos_embed_type=None,
    )  # fmt: skip
    conditioner = AnimaTextConditioner(
        source_dim=64, target_dim=32, model_dim=32, num_layers=2, num_attention_heads=2, mlp_ratio=2.0
    )
    vae = AutoencoderKLQwenImage(base_dim=8, num_res_blocks=1)
    return {
        "model_index": "AnimaModularPipeline", "transformer": transformer, "text_conditioner": conditioner, "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0), "text_encoder": tiny_qwen(64),
        "tokenizer": qwen_tokenizer(), "t5_tokenizer": t5_tokenizer(),
    }  # fmt: skip


FAMILIES: dict[str, Callable[..., Parts]] = {
    "flux1": flux_parts, "chroma": chroma_parts, "sd3": sd3_parts, "zimage": z_image_parts,
    "flux2_klein_4b": flux2_parts, "flux2_dev": flux2_dev_parts, "anima": anima_parts,
}  # fmt: skip


def tiny_model(family: str, home: Path, **options: Any) -> Path:
    """Write a tiny random model of a family as a Diffusers folder, and return it."""
    torch.manual_seed(0)
    parts = FAMILIES[family](**options)
    index: dict[str, Any] = {"_class_name": parts.pop("model_index"), **parts.pop("facts", {})}
    home.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        if part is None:
            index[name] = [None, None]
            continue
        if isinstance(part, Path):
            shutil.copytree(part, home / name)
        else:
            part.save_pretrained(home / name)
        library = type(part).__module__.partition(".")[0]
        index[name] = ["transformers", "CLIPTokenizer"] if isinstance(part, Path) else [library, type(part).__name__]
    modular = "modular_" if "Modular" in index["_class_name"] else ""
    (home / f"{modular}model_index.json").write_text(json.dumps(index))
    return home
