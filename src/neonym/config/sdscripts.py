"""Compatibility with sd-scripts as data: how each of its flags that is not a setting of Neonym is handled.

A `renamed` flag sets another setting. A flag with `no effect` is accepted, because nothing is left for it to do. A
`refused` flag would change the result, so it stops the run. `docs/from-sd-scripts.md` is made from these tables.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

Form = Literal["switch", "text", "count", "number", "list"]  # a count or a number of 0 counts as not given


@dataclass(frozen=True)
class Compat:
    """A frozen record of one flag of sd-scripts.

    A renamed switch sets its setting to `value`. With `is_reported`, a note says what else is different.
    """

    kind: Literal["renamed", "no effect", "refused"]
    reason: str
    form: Form = "switch"
    setting: str | None = None
    value: Any = None
    is_reported: bool = False


def renamed(setting: str, value: Any = None, form: Form = "switch", but: str = "") -> Compat:
    """Return the record of a flag that sets another setting. `but` says what is different, if anything is."""
    flag = f"`--{setting}`" if value is None else f"`--{setting}={value}`"
    return Compat("renamed", f"sets {flag}{but}", form, setting, value, bool(but))


def no_effect(reason: str, form: Form = "switch") -> Compat:
    """Return the record of a flag that is accepted, although nothing is left for it to do."""
    return Compat("no effect", reason, form)


def refused(reason: str, form: Form = "switch") -> Compat:
    """Return the record of a flag that stops the run, because it would change the result."""
    return Compat("refused", reason, form)


DEEPSPEED = no_effect("belongs to DeepSpeed, which is not supported", "text")
SMALL = "only a few rows of numbers are trained, so there is nothing to shard or to offload"
NO_WRAPPER = "the gradients of a few rows are summed directly, without a DDP wrapper"
IN_MEMORY = "every image is encoded once, before training, so there is nothing to load during it"
ROWS = "; the word, its gradients and its optimizer state stay float32"

SDSCRIPTS: dict[str, Compat] = {
    "caption_extention": renamed("caption_extension", form="text"),
    "use_8bit_adam": renamed("optimizer_type", "AdamW8bit"),
    "use_lion_optimizer": renamed("optimizer_type", "Lion"),
    "full_fp16": renamed("mixed_precision", "fp16", but=ROWS),
    "full_bf16": renamed("mixed_precision", "bf16", but=ROWS),
    "fp8_base": renamed("base_precision", "fp8"),
    "ae": renamed("vae", form="text"),
    "tokenizer_cache_dir": no_effect("tokenizers come with the model and are never fetched", "text"),
    "cache_info": no_effect("sizes and captions are read again for each run, within a second"),
    "skip_cache_check": no_effect("cached images are found by their content, so there is nothing to check"),
    "max_data_loader_n_workers": no_effect(IN_MEMORY, "count"),
    "persistent_data_loader_workers": no_effect(IN_MEMORY),
    "vae_batch_size": no_effect("images are encoded one at a time, which takes seconds and little memory", "count"),
    "no_half_vae": no_effect("the VAE always computes in float32"),
    "lowram": no_effect("the parts of the model are moved to the device one at a time, as they are read"),
    "highvram": no_effect("no part of the model is moved between steps"),
    "disable_mmap_load_safetensors": no_effect("the safetensors library decides how files are read"),
    "ddp_gradient_as_bucket_view": no_effect(NO_WRAPPER),
    "ddp_static_graph": no_effect(NO_WRAPPER),
    "deepspeed": refused(SMALL),
    "zero_stage": no_effect(DEEPSPEED.reason, "count"),
    "offload_optimizer_device": DEEPSPEED,
    "offload_optimizer_nvme_path": DEEPSPEED,
    "offload_param_device": DEEPSPEED,
    "offload_param_nvme_path": DEEPSPEED,
    "zero3_init_flag": no_effect(DEEPSPEED.reason),
    "zero3_save_16bit_model": no_effect(DEEPSPEED.reason),
    "fp16_master_weights_and_gradients": no_effect(DEEPSPEED.reason),
    "fused_backward_pass": refused(SMALL),
    "dataset_class": refused(
        "a dataset cannot be an imported class, because Neonym runs no code from its inputs", "text"
    ),
    "conditioning_data_dir": refused(
        "is only a key of the dataset file (sd-scripts ignores this flag in its Textual Inversion trainers)", "text"
    ),
    "console_log_simple": no_effect("output that does not go to a terminal is always plain"),
}
OTHER_TRAINERS = frozenset(  # keys of sd-scripts' other trainers, which shared config files contain
    [
        "base_weights",
        "base_weights_multiplier",
        "cpu_offload_checkpointing",
        "dim_from_weights",
        "fp8_base_unet",
        "max_validation_steps",
        "network_alpha",
        "network_args",
        "network_dim",
        "network_dropout",
        "network_module",
        "network_train_text_encoder_only",
        "network_train_unet_only",
        "network_weights",
        "no_metadata",
        "scale_weight_norms",
        "skip_until_initial_step",
        "text_encoder_lr",
        "training_comment",
        "unet_lr",
        "validate_every_n_epochs",
        "validate_every_n_steps",
        "block_lr",
        "cache_text_encoder_outputs_to_disk",
        "conv_alpha",
        "conv_dim",
        "diffusers_xformers",
        "fused_optimizer_groups",
        "keep_tokens_in_text_encoder",
        "learning_rate_te",
        "learning_rate_te1",
        "learning_rate_te2",
        "learning_rate_te3",
        "max_norm_keys",
        "no_token_padding",
        "stop_text_encoder_training",
        "text_encoder_batch_size",
        "train_text_encoder",
        "apply_lg_attn_mask",
        "apply_t5_attn_mask",
        "blockwise_fused_optimizers",
        "clip_g_dropout_rate",
        "clip_l_dropout_rate",
        "controlnet_model_name_or_path",
        "double_blocks_to_swap",
        "enable_scaled_pos_embed",
        "gemma2",
        "gemma2_max_token_length",
        "mem_eff_save",
        "num_last_block_to_freeze",
        "pos_emb_random_crop_rate",
        "sample_batch_size",
        "save_clip",
        "save_t5xxl",
        "single_blocks_to_swap",
        "skip_latents_validity_check",
        "split_attn",
        "split_mode",
        "system_prompt",
        "t5_dropout_rate",
        "t5xxl_device",
        "t5xxl_dtype",
        "t5xxl_max_token_length",
        "train_t5xxl",
        "use_flash_attn",
        "use_sage_attn",
        "use_t5xxl_cache_only",
        "cond_emb_dim",
        "control_net_lr",
    ]
)
GUI = frozenset(["epoch", "noise_offset_type"])  # keys that the kohya_ss GUI writes only for itself

ONE_ATTENTION = no_effect("PyTorch's own attention is always used, in the fastest form that the device offers")
CONTROL_NET = refused("ControlNet is not supported", "list")
OF_CONTROL_NET = no_effect("belongs to ControlNet, which is not supported", "list")
OF_DEEP_SHRINK = no_effect("belongs to Deep Shrink, which is not supported", "text")
OF_GRADUAL_LATENT = no_effect("belongs to Gradual Latent, which is not supported", "text")
GUIDANCE_BY_NETS = refused("guidance by CLIP or VGG16 is not supported", "number")
SAME_IMAGES = "a LoRA gives the same images whether or not it is merged beforehand"

GENERATOR: dict[str, Compat] = {  # flags of gen_img.py and gen_img_diffusers.py
    "mask_image": renamed("mask_path", form="text"),
    "vae_slices": renamed("vae_tiling", True, form="count"),
    "xformers": ONE_ATTENTION,
    "sdpa": ONE_ATTENTION,
    "diffusers_xformers": ONE_ATTENTION,
    "tokenizer_cache_dir": no_effect("tokenizers come with the model and are never fetched", "text"),
    "no_preview": no_effect("no window is ever opened"),
    "console_log_level": no_effect("only one line is printed for each image", "text"),
    "console_log_file": no_effect("only one line is printed for each image; redirect the output to keep it", "text"),
    "console_log_simple": no_effect("output that does not go to a terminal is always plain"),
    "network_module": no_effect("the kind of network is recognised from its file", "list"),
    "network_args": no_effect("the arguments of a LoRA are read from its file", "list"),
    "network_merge_n_models": no_effect(SAME_IMAGES, "count"),
    "network_pre_calc": no_effect(SAME_IMAGES),
    "network_regional_mask_max_color_codes": refused(
        "LoRAs that apply to regions of an image are not supported", "text"
    ),
    "from_module": refused("prompts cannot come from a module, because Neonym runs no code from its inputs", "text"),
    "prompter_module_args": no_effect("belongs to --from_module, which is not supported", "text"),
    "force_scheduler_zero_steps_offset": no_effect("the start of img2img is counted in steps, without an offset"),
    "guide_image_path": refused("guidance by an image (ControlNet, CLIP, VGG16) is not supported", "list"),
    "highres_fix_upscaler": refused(
        "an upscaler cannot be an imported module, because Neonym runs no code from its inputs", "text"
    ),
    "highres_fix_upscaler_args": no_effect("belongs to --highres_fix_upscaler, which is not supported", "text"),
    "highres_fix_disable_control_net": no_effect("ControlNet is not supported, so there is none to switch off"),
    "control_net_models": CONTROL_NET,
    "control_net_lllite_models": refused("ControlNet-LLLite is not supported", "list"),
    "control_net_preps": OF_CONTROL_NET,
    "control_net_multipliers": OF_CONTROL_NET,
    "control_net_weights": OF_CONTROL_NET,
    "control_net_ratios": OF_CONTROL_NET,
    "clip_vision_strength": refused("conditioning by CLIP vision is not supported", "text"),
    "ds_depth_1": refused("Deep Shrink is not supported", "text"),
    "ds_depth_2": refused("Deep Shrink is not supported", "text"),
    "ds_timesteps_1": OF_DEEP_SHRINK,
    "ds_timesteps_2": OF_DEEP_SHRINK,
    "ds_ratio": OF_DEEP_SHRINK,
    "gradual_latent_timesteps": refused("Gradual Latent is not supported", "text"),
    "gradual_latent_ratio": OF_GRADUAL_LATENT,
    "gradual_latent_ratio_step": OF_GRADUAL_LATENT,
    "gradual_latent_every_n_steps": OF_GRADUAL_LATENT,
    "gradual_latent_s_noise": OF_GRADUAL_LATENT,
    "gradual_latent_unsharp_params": OF_GRADUAL_LATENT,
    "XTI_embeddings": refused("embeddings with vectors for each layer (XTI) are not supported", "list"),
    "clip_guidance_scale": GUIDANCE_BY_NETS,
    "clip_image_guidance_scale": GUIDANCE_BY_NETS,
    "vgg16_guidance_scale": GUIDANCE_BY_NETS,
    "vgg16_guidance_layer": no_effect("belongs to --vgg16_guidance_scale, which is not supported", "text"),
}


def _field(compat: Compat) -> Any:
    """Return the type and the field of a flag of sd-scripts, as arguments of `create_model`."""
    kinds: dict[str, tuple[Any, Any]] = {
        "switch": (bool, False),
        "text": (str | None, None),
        "count": (int | None, None),
        "number": (float | None, None),
        "list": (tuple[str, ...], ()),
    }
    kind, default = kinds[compat.form]
    return (kind, Field(default, description=f"A flag of sd-scripts ({compat.kind}): {compat.reason}."))


def _settings(name: str, table: dict[str, Compat]) -> type[BaseModel]:
    """Return a class of settings with a field for each flag of a table."""
    config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)
    return create_model(name, __config__=config, **{flag: _field(compat) for flag, compat in table.items()})


CompatSettings = _settings("CompatSettings", SDSCRIPTS)
GenerateCompat = _settings("GenerateCompat", GENERATOR)
