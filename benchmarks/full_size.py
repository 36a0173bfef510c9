"""The configs of published models at full size, to measure and to estimate what they need."""

from __future__ import annotations

from typing import Any

VAE = {
    "_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "latent_channels": 16,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 2, "norm_num_groups": 32,
    "use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 0.3611, "shift_factor": 0.1159,
}  # fmt: skip
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
T5_XXL = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
}  # fmt: skip
QWEN3_4B = {
    "vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "rms_norm_eps": 1e-6,
}  # fmt: skip
FLUX1 = {
    "_class_name": "FluxTransformer2DModel", "patch_size": 1, "in_channels": 64, "num_layers": 19,
    "num_single_layers": 38, "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 4096,
    "pooled_projection_dim": 768, "axes_dims_rope": [16, 56, 56], "guidance_embeds": True,
}  # fmt: skip
Z_IMAGE = {
    "_class_name": "ZImageTransformer2DModel", "all_patch_size": [2], "all_f_patch_size": [1], "in_channels": 16,
    "dim": 3840, "n_layers": 30, "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30, "norm_eps": 1e-5,
    "qk_norm": True, "cap_feat_dim": 2560, "rope_theta": 256.0, "t_scale": 1000.0, "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512],
}  # fmt: skip
KLEIN_4B = {
    "_class_name": "Flux2Transformer2DModel", "patch_size": 1, "in_channels": 128, "num_layers": 5,
    "num_single_layers": 20, "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 7680,
    "timestep_guidance_channels": 256, "mlp_ratio": 3.0, "axes_dims_rope": [32, 32, 32, 32], "rope_theta": 2000,
    "eps": 1e-6, "guidance_embeds": False,
}  # fmt: skip
FLUX2_DEV = {
    **KLEIN_4B, "num_layers": 8, "num_single_layers": 48, "num_attention_heads": 48, "joint_attention_dim": 15360,
    "guidance_embeds": True,
}  # fmt: skip
MISTRAL_24B = {
    "vocab_size": 131072, "hidden_size": 5120, "intermediate_size": 32768, "num_hidden_layers": 40,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e9}, "rms_norm_eps": 1e-5, "sliding_window": None,
}  # fmt: skip
FLUX2_VAE = {
    "_class_name": "AutoencoderKLFlux2", "block_out_channels": [128, 256, 512, 512], "latent_channels": 32,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 2,
    "norm_num_groups": 32,
}  # fmt: skip
CONFIGS: dict[str, dict[str, dict[str, Any]]] = {  # family -> configs of its parts
    "flux1": {"transformer": FLUX1, "text_encoder": CLIP_L, "text_encoder_2": T5_XXL, "vae": VAE},
    "zimage": {"transformer": Z_IMAGE, "text_encoder": QWEN3_4B, "vae": VAE},
    "flux2_klein_4b": {"transformer": KLEIN_4B, "text_encoder": QWEN3_4B, "vae": FLUX2_VAE},
    "flux2_dev": {"transformer": FLUX2_DEV, "text_encoder": MISTRAL_24B, "vae": FLUX2_VAE},
}
TINY: dict[str, Any] = {  # the same architectures in a size for tests
    "num_layers": 2, "num_single_layers": 3, "attention_head_dim": 16, "axes_dims_rope": [4, 6, 6], "n_layers": 3,
    "n_refiner_layers": 1, "dim": 32, "axes_dims": [4, 6, 6], "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 32,
    "joint_attention_dim": 32, "pooled_projection_dim": 32, "hidden_size": 32, "d_model": 32, "d_kv": 8, "d_ff": 48,
    "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 600,
    "block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4, "num_heads": 4,
}  # fmt: skip


TINY_FLUX2 = {"joint_attention_dim": 96, "axes_dims_rope": [4, 4, 4, 4]}
TINY_OF = {"flux2_klein_4b": TINY_FLUX2, "flux2_dev": TINY_FLUX2}


def tiny(family: str) -> dict[str, dict[str, Any]]:
    """Return the configs of a model of the same architecture whose networks are tiny."""
    small = {**TINY, **TINY_OF.get(family, {})}
    return {
        part: {**config, **{key: value for key, value in small.items() if key in config}}
        for part, config in CONFIGS[family].items()
    }
