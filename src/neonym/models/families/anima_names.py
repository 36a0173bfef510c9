"""Recognise the files of Anima's transformer, and convert its original names. This module does not need torch.

A file holds two networks: a Cosmos-Predict2 transformer and, under `llm_adapter.`, the conditioner that reads the text.
"""

from __future__ import annotations

from typing import Any

from neonym.models.file_layout import FileLayout, MorePart, always_shift
from neonym.models.loading.header import Part
from neonym.models.loading.prefixes import without_prefix
from neonym.models.signatures import LoraSignature, Refusal, Signature, always

ADAPTER = "llm_adapter."
HEAD = 128
PATCH = (1, 2, 2)  # in time, height and width
BLOCK = "blocks.0.adaln_modulation_self_attn.1.weight"
CONDITIONER = Refusal(
    "is only the text conditioner of Anima", "Name the file of its transformer, or its Diffusers folder"
)
SIGNATURES = (
    Signature("anima", "Anima", (f"{ADAPTER}blocks.0.cross_attn.q_proj.weight", BLOCK), always("anima")),
    Signature(
        "anima", "Anima", ("embed.weight", "blocks.0.norm_cross_attn.weight", "blocks.0.cross_attn.q_proj.weight"),
        always("text_conditioner"), "diffusers", "other", refused={"text_conditioner": CONDITIONER},
    ),
)  # fmt: skip
LORA_SIGNATURES = (
    LoraSignature("anima", r"llm_adapter_blocks_\d+_"),
    LoraSignature("anima", r"blocks_\d+_cross_attn_k_proj$", lambda layer: layer.columns == 1024),
    LoraSignature("anima", r"blocks_\d+_(?:self_attn_q_proj|mlp_layer1)$", lambda layer: layer.columns == 2048),
)


def config_from(part: Part) -> dict[str, Any]:
    """Return the config of the transformer from its shapes. Raises KeyError if weights are missing."""
    width, tokens = part.shape("x_embedder.proj.1.weight")
    head = part.shape("blocks.0.self_attn.q_norm.weight")[0]
    channels = tokens // 4 - 1  # the last one is the mask of padding
    return {
        "_class_name": "CosmosTransformer3DModel", "in_channels": channels, "out_channels": channels,
        "num_attention_heads": width // head, "attention_head_dim": head,
        "num_layers": part.layers("blocks.{}.self_attn.q_proj.weight"),
        "mlp_ratio": part.shape("blocks.0.mlp.layer1.weight")[0] / width,
        "text_embed_dim": part.shape("blocks.0.cross_attn.k_proj.weight")[1],
        "adaln_lora_dim": part.shape(BLOCK)[0], "max_size": [128, 240, 240], "patch_size": list(PATCH),
        "rope_scale": [1.0, 4.0, 4.0], "concat_padding_mask": True, "extra_pos_embed_type": None,
    }  # fmt: skip


def conditioner_config(part: Part) -> dict[str, Any]:
    """Return the config of the conditioner in the same file. Raises KeyError if weights are missing."""
    vocabulary, target = part.shape(f"{ADAPTER}embed.weight")
    block = f"{ADAPTER}blocks.0."
    width, source = part.shape(f"{block}cross_attn.q_proj.weight")[0], part.shape(f"{block}cross_attn.k_proj.weight")[1]
    return {
        "_class_name": "AnimaTextConditioner", "source_dim": source, "target_dim": target, "model_dim": width,
        "num_layers": part.layers(f"{ADAPTER}blocks.{{}}.cross_attn.q_proj.weight"),
        "num_attention_heads": width // part.shape(f"{block}cross_attn.q_norm.weight")[0],
        "mlp_ratio": part.shape(f"{block}mlp.0.weight")[0] / width, "target_vocab_size": vocabulary,
        "use_self_attention": f"{block}self_attn.q_proj.weight" in part, "min_sequence_length": 512,
    }  # fmt: skip


def from_original_names(tensors: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of the transformer under the names of diffusers, without those of the conditioner."""
    from diffusers.loaders.single_file_utils import convert_cosmos_transformer_checkpoint_to_diffusers

    del config
    own = {f"net.{n}": t for n, t in without_prefix(tensors).items() if not n.startswith(ADAPTER)}
    return convert_cosmos_transformer_checkpoint_to_diffusers(own)


def conditioner_weights(tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of the conditioner, which have the same names in diffusers."""
    own = without_prefix(tensors)
    return {name.removeprefix(ADAPTER): tensor for name, tensor in own.items() if name.startswith(ADAPTER)}


FILES = FileLayout(
    config_from, from_original_names, "anima", "wan21_or_qwen_image", always_shift(3.0), "qwen_image_vae.safetensors",
    more={"text_conditioner": MorePart(ADAPTER, conditioner_config)},
)  # fmt: skip
