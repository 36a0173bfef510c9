"""Recognise transformers for which no words can be learned, so that they are refused by name, with the reason."""

from __future__ import annotations

from neonym.models.loading.header import Part
from neonym.models.signatures import Choice, LoraLayer, LoraSignature, Refusal, Signature, always, by_size, has_size


def unbuilt(label: str, reason: str = "Neonym has no network of this family yet") -> Refusal:
    """Return the refusal of a family that could be supported."""
    return Refusal(f"is a {label} transformer, for which words cannot be learned: {reason}")


VIDEO = "it is made for videos"
LUMINA = unbuilt("Lumina-Image 2", "no program reads embeddings for it")
COSMOS = unbuilt("Cosmos 1", f"{VIDEO}, and trained with another objective (EDM)")
PREDICT = unbuilt(
    "Cosmos-Predict2", "it is trained with another objective (EDM). With the tensors of `llm_adapter.` it would be Anima: is the file complete?"
)  # fmt: skip
QWEN = unbuilt("Qwen-Image", "no program reads embeddings for its text encoder")
WAN = unbuilt("Wan", f"{VIDEO}, and no program reads embeddings for its text encoder")
I2V = Refusal(
    "is HunyuanVideo for image to video, which reads an image besides the text", "Use the text-to-video model"
)
KREA = (Choice("raw", ("raw",)), Choice("turbo", ("turbo",)))
HIDREAM = (Choice("full", ("full",)), Choice("dev", ("dev",)), Choice("fast", ("fast",)))


def wan_variant(part: Part) -> str | None:
    """Return the variant of a Wan transformer, from its width and what it reads."""
    width = {1536: "1.3b", 5120: "14b", 3072: "5b"}.get(part.size("patch_embedding.weight", 0) or 0)
    channels = part.size("patch_embedding.weight", 1)
    version = "2.2" if width == "5b" else "2.1"
    task = "i2v" if channels == 36 else "ti2v" if width == "5b" else "t2v"
    return f"{version}_{task}_{width}" if width else None


SIGNATURES = (
    Signature(
        "lumina2", "Lumina-Image 2", ("cap_embedder.1.weight", "noise_refiner.0.attention.qkv.weight"), always("lumina2"),
        fits=has_size("cap_embedder.1.weight", 1, 2304), unsupported=LUMINA,
    ),
    Signature(
        "lumina2", "Lumina-Image 2", ("time_caption_embed.caption_embedder.1.weight", "context_refiner.0.attn.to_q.weight"),
        always("lumina2"), "diffusers", unsupported=LUMINA,
    ),
    Signature(
        "cosmos", "Cosmos 1", ("blocks.block0.blocks.0.block.attn.to_q.0.weight",),
        by_size("blocks.block0.blocks.0.block.attn.to_q.0.weight", 0, {4096: "7b", 5120: "14b"}),
        unsupported=COSMOS,
    ),
    Signature(
        "cosmos_predict2", "Cosmos-Predict2", ("blocks.0.adaln_modulation_self_attn.1.weight", "x_embedder.proj.1.weight"),
        by_size("x_embedder.proj.1.weight", 0, {2048: "2b", 5120: "14b"}),
        absent=("llm_adapter.blocks.0.cross_attn.q_proj.weight",), unsupported=PREDICT,
    ),
    Signature(
        "cosmos_predict2", "Cosmos-Predict2", ("patch_embed.proj.weight", "transformer_blocks.0.attn2.to_q.weight",
        "transformer_blocks.0.norm1.linear_1.weight"),
        by_size("patch_embed.proj.weight", 0, {2048: "2b", 5120: "14b"}), "diffusers",
        unsupported=PREDICT,
    ),
    Signature(
        "qwen_image_21", "Qwen-Image-2.1", ("txt_in.text_norm.weight", "modulation.1.weight", "transformer_blocks.0.img_mlp.gate_up.weight"),
        always("2.1"), unsupported=unbuilt("Qwen-Image-2.1"),
    ),
    Signature(
        "qwen_image_21", "Qwen-Image-2.1", ("txt_in.text_norm.weight", "modulation.1.weight", "transformer_blocks.0.img_mlp.gate_layer.weight"),
        always("2.1"), "diffusers", unsupported=unbuilt("Qwen-Image-2.1"),
    ),
    Signature(
        "qwen_image", "Qwen-Image", ("transformer_blocks.0.img_mod.1.weight", "txt_norm.weight"), always("1"),
        unsupported=QWEN,
    ),
    Signature(
        "krea2", "Krea 2", ("txtfusion.projector.weight", "first.weight"), always("raw_or_distilled"),
        unsupported=unbuilt("Krea 2"), choices={"raw_or_distilled": KREA},
    ),
    Signature(
        "krea2", "Krea 2", ("text_fusion.projector.weight", "img_in.weight"), always("raw_or_distilled"), "diffusers",
        unsupported=unbuilt("Krea 2"), choices={"raw_or_distilled": KREA},
    ),
    Signature(
        "pixart", "PixArt", ("t_block.1.weight", "y_embedder.y_embedding"),
        by_size("y_embedder.y_embedding", 0, {120: "alpha", 300: "sigma"}), unsupported=unbuilt("PixArt"),
    ),
    Signature(
        "pixart", "PixArt", ("pos_embed.proj.weight", "adaln_single.linear.weight", "caption_projection.linear_1.weight"),
        lambda part: "alpha" if "adaln_single.emb.resolution_embedder.linear_1.weight" in part else "sigma", "diffusers",
        unsupported=unbuilt("PixArt"),
    ),
    Signature(
        "sana", "Sana", ("blocks.0.mlp.inverted_conv.conv.weight", "y_embedder.y_proj.fc1.weight"),
        by_size("x_embedder.proj.weight", 0, {2240: "1.6b", 1152: "0.6b"}), unsupported=unbuilt("Sana"),
    ),
    Signature(
        "sana", "Sana", ("transformer_blocks.0.ff.conv_inverted.weight", "caption_projection.linear_1.weight"),
        by_size("patch_embed.proj.weight", 0, {2240: "1.6b", 1152: "0.6b"}), "diffusers",
        unsupported=unbuilt("Sana"),
    ),
    Signature(
        "hidream", "HiDream-I1", ("caption_projection.0.linear.weight", "double_stream_blocks.0.block.attn1.to_q.weight"),
        always("i1"), unsupported=unbuilt("HiDream-I1"), choices={"i1": HIDREAM},
    ),
    Signature(
        "hunyuan_video", "HunyuanVideo", ("txt_in.individual_token_refiner.blocks.0.self_attn.qkv.weight", "img_in.proj.weight"),
        lambda part: "t2v" if part.size("img_in.proj.weight", 1) == 16 else "i2v",
        unsupported=unbuilt("HunyuanVideo"), refused={"i2v": I2V},
    ),
    Signature(
        "hunyuan_video", "HunyuanVideo", ("txt_in.individual_token_refiner.blocks.0.self_attn_qkv.weight", "img_in.proj.weight"),
        lambda part: "t2v" if part.size("img_in.proj.weight", 1) == 16 else "i2v",
        unsupported=unbuilt("HunyuanVideo"), refused={"i2v": I2V},
    ),
    Signature(
        "hunyuan_video", "HunyuanVideo", ("context_embedder.proj_in.weight", "x_embedder.proj.weight"),
        lambda part: "t2v" if part.size("x_embedder.proj.weight", 1) == 16 else "i2v", "diffusers",
        unsupported=unbuilt("HunyuanVideo"), refused={"i2v": I2V},
    ),
    Signature(
        "wan", "Wan", ("blocks.0.cross_attn.norm_k.weight", "head.modulation", "patch_embedding.weight"), wan_variant,
        unsupported=WAN,
    ),
    Signature(
        "wan", "Wan", ("condition_embedder.time_proj.weight", "patch_embedding.weight"), wan_variant, "diffusers",
        unsupported=WAN,
    ),
    Signature(
        "ltx", "LTX-Video", ("patchify_proj.weight", "transformer_blocks.0.attn2.to_k.weight", "adaln_single.linear.weight"),
        by_size("patchify_proj.weight", 0, {2048: "2b", 4096: "13b"}), unsupported=unbuilt("LTX-Video", VIDEO),
    ),
    Signature(
        "ltx", "LTX-Video", ("proj_in.weight", "time_embed.linear.weight", "transformer_blocks.0.attn2.norm_q.weight"),
        by_size("proj_in.weight", 0, {2048: "2b", 4096: "13b"}), "diffusers", unsupported=unbuilt("LTX-Video", VIDEO),
    ),
    Signature(
        "auraflow", "AuraFlow", ("cond_seq_linear.weight", "double_layers.0.attn.w1q.weight"),
        by_size("positional_encoding", 1, {9216: "0.3", 4096: "0.2", 1024: "0.1"}),
        unsupported=unbuilt("AuraFlow", "no program reads embeddings for it"),
    ),
    Signature(
        "auraflow", "AuraFlow", ("context_embedder.weight", "joint_transformer_blocks.0.attn.add_q_proj.weight"),
        by_size("pos_embed.pos_embed", 1, {9216: "0.3", 4096: "0.2", 1024: "0.1"}), "diffusers",
        unsupported=unbuilt("AuraFlow", "no program reads embeddings for it"),
    ),
)  # fmt: skip


def qwen_width(layer: LoraLayer) -> bool:
    """Return whether a layer has the width of Qwen-Image."""
    return layer.columns == 3072


LORA_SIGNATURES = (
    LoraSignature("hunyuan_video", r"double_blocks_19_|single_blocks_3[89]_"),  # FLUX.1 has fewer blocks
    LoraSignature("qwen_image", r"transformer_blocks_\d+_(?:img|txt)_(?:mod|mlp)_"),
    LoraSignature("qwen_image", r"transformer_blocks_[2-5]\d_attn_add_q_proj$", qwen_width),
    LoraSignature("krea2", r"blocks_\d+_attn_wq$"),
    LoraSignature("krea2", r"transformer_blocks_\d+_attn_to_gate$"),
    LoraSignature("hidream", r"(?:double|single)_stream_blocks_\d+_block_"),
    LoraSignature("wan", r"blocks_\d+_(?:self_attn_q|cross_attn_k|ffn_0)$"),
    LoraSignature("lumina2", r"layers_\d+_(?:attention|feed_forward)_", lambda layer: layer.columns == 2304),
    LoraSignature("pixart", r"transformer_blocks_\d+_attn2_to_q$", lambda layer: layer.columns == 1152),
    LoraSignature("ltx", r"transformer_blocks_\d+_attn2_to_q$", lambda layer: layer.columns in (2048, 4096)),
)  # fmt: skip
