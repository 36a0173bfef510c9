"""The flags and keys of other trainers as data, each with the setting of Neonym that means the same.

Messages about unknown flags and keys use these tables, and `docs/from-other-trainers.md` is made from them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Meaning:
    """A frozen record of what a flag or key of another trainer means: a `setting`, if there is one, and a `note`."""

    setting: str = ""
    note: str = ""


def same(setting: str, note: str = "") -> Meaning:
    """Return the meaning of a flag or key that is a setting of Neonym; `note` tells what is different."""
    return Meaning(setting, note)


def no_setting(note: str) -> Meaning:
    """Return the meaning of a flag or key that is no setting of Neonym; `note` tells why, or what to do instead."""
    return Meaning("", note)


CAPTIONED = "without a template, captions are read, which diffusers does not do"
SAVED_IMAGES = "needs --sample_prompts, a file of prompts"
NO_NEED = "the model's own tokenizer is used"
SCALED = "the learning rate is used as given: multiply it by batch size, accumulation steps and processes yourself"
ADAM = 'write --optimizer_args "betas=(0.9, 0.999)"'
IN_PLACE = "run the same command again to continue where it stopped"
STATES = "a state of a few kilobytes is always kept; --save_state keeps one next to every saved file"
MEMORY = "images are encoded once, before training"

DIFFUSERS = {
    "placeholder_token": same("token_string"),
    "initializer_token": same("init_word", "any number of words"),
    "num_vectors": same("num_vectors_per_token"),
    "learnable_property": same("use_object_template", f"or --use_style_template, for `style`; {CAPTIONED}"),
    "what_to_teach": same("use_object_template", f"or --use_style_template, for `style`; {CAPTIONED}"),
    "repeats": same("dataset_repeats", "changes only the length of an epoch"),
    "num_train_epochs": same("max_train_epochs"),
    "save_steps": same("save_every_n_steps"),
    "scale_lr": no_setting(SCALED),
    "lr_num_cycles": same("lr_scheduler_num_cycles"),
    "adam_beta1": same("optimizer_args", ADAM),
    "adam_beta2": same("optimizer_args", ADAM),
    "adam_epsilon": same("optimizer_args", "write --optimizer_args eps=1e-8"),
    "adam_weight_decay": same("weight_decay", "default: 0"),
    "enable_xformers_memory_efficient_attention": same("xformers", "PyTorch's own attention is always used"),
    "checkpointing_steps": same("state_every_n_steps", STATES),
    "checkpoints_total_limit": same("save_last_n_steps_state", "counted in steps, not in states"),
    "resume_from_checkpoint": same("resume", f"it reads states of Neonym only; {IN_PLACE}"),
    "validation_prompt": same("sample_prompts", "a file of prompts"),
    "num_validation_images": no_setting("write a prompt into the --sample_prompts file once for each image"),
    "validation_steps": same("sample_every_n_steps", SAVED_IMAGES),
    "validation_epochs": same("sample_every_n_epochs", SAVED_IMAGES),
    "report_to": same("log_with", "tensorboard needs --logging_dir"),
    "push_to_hub": same("huggingface_repo_id", "setting a repository switches uploads on"),
    "hub_model_id": same("huggingface_repo_id"),
    "hub_token": same("huggingface_token", "HF_TOKEN in the environment is safer"),
    "no_safe_serialization": same("save_model_as", "bin is diffusers' own layout"),
    "save_as_full_pipeline": no_setting("the model does not change: only the embedding is saved"),
    "tokenizer_name": no_setting(NO_NEED),
    "revision": no_setting("download that revision and pass its folder with --pretrained_model_name_or_path"),
    "center_crop": no_setting(
        "images are always cropped at the centre, unless --random_crop or --enable_bucket is given"
    ),
    "dataloader_num_workers": no_setting(MEMORY),
    "allow_tf32": no_setting("float32 is always computed as float32; --mixed_precision=bf16 is faster"),
    "local_rank": no_setting("accelerate launch gives each process its rank"),
}

INVOKE_TRAINING = {
    "model": same("pretrained_model_name_or_path"),
    "hf_variant": same("variant"),
    "vae_model": same("vae"),
    "base_output_dir": same("output_dir"),
    "placeholder_token": same("token_string"),
    "initializer_token": same("init_word", "any number of words"),
    "initial_phrase": same("init_word"),
    "initial_embedding_file": same("weights"),
    "num_vectors": same("num_vectors_per_token"),
    "dataset_dir": same("train_data_dir"),
    "caption_preset": same("use_object_template", "or --use_style_template, for `style`"),
    "caption_templates": same("template_file", "a file with a template on each line"),
    "keep_original_captions": no_setting(
        "captions are read unless templates are used; in a template, [filewords] stands for the caption"
    ),
    "random_flip": same("flip_aug"),
    "center_crop": DIFFUSERS["center_crop"],
    "shuffle_caption_delimiter": same("shuffle_caption", "--caption_separator is the delimiter"),
    "aspect_ratio_buckets": same("enable_bucket", "with --min_bucket_reso and --max_bucket_reso"),
    "keep_in_memory": no_setting(MEMORY),
    "cache_vae_outputs": no_setting(MEMORY),
    "dataloader_num_workers": no_setting(MEMORY),
    "use_masks": same("alpha_mask", "or conditioning_data_dir in a dataset file, with --masked_loss"),
    "validate_every_n_steps": same("sample_every_n_steps", SAVED_IMAGES),
    "validate_every_n_epochs": same("sample_every_n_epochs", SAVED_IMAGES),
    "validation_prompts": same("sample_prompts", "a file with a prompt on each line"),
    "num_validation_images_per_prompt": DIFFUSERS["num_validation_images"],
    "max_checkpoints": same("save_last_n_steps", "counted in steps, not in files"),
    "weight_dtype": same("mixed_precision", "it applies to the frozen model; the word stays float32"),
    "enable_cpu_offload_during_validation": no_setting("no part of the model is moved between steps"),
}  # fmt: skip

ONETRAINER = {
    "base_model_name": same("pretrained_model_name_or_path"),
    "model_type": no_setting("models are recognised"),
    "training_method": no_setting("Textual Inversion is the only method"),
    "placeholder": same("token_string", "the word as it appears in captions, without < >"),
    "initial_embedding_text": same("init_word"),
    "token_count": same("num_vectors_per_token"),
    "embedding_learning_rate": same("learning_rate"),
    "additional_embeddings": no_setting("several words are listed as [[concepts]] in a dataset file"),
    "is_output_embedding": no_setting("vectors after the text encoder are not supported"),
    "preserve_embedding_norm": no_setting("the norm of the vectors is not constrained"),
    "concept_file_name": same("dataset_config", "a dataset file: each concept's path is the image_dir of a subset"),
    "concepts": same("dataset_config", "a dataset file: each concept's path is the image_dir of a subset"),
    "learning_rate_scheduler": same("lr_scheduler"),
    "learning_rate_warmup_steps": same("lr_warmup_steps"),
    "learning_rate_cycles": same("lr_scheduler_num_cycles"),
    "epochs": same("max_train_epochs"),
    "batch_size": same("train_batch_size"),
    "optimizer": same("optimizer_type"),
    "ema": same("ema_decay", "setting a decay switches it on"),
    "clip_grad_norm": same("max_grad_norm"),
    "offset_noise_weight": same("noise_offset"),
    "perturbation_noise_weight": same("ip_noise_gamma"),
    "rescale_noise_scheduler_to_zero_terminal_snr": same("zero_terminal_snr"),
    "timestep_distribution": same("timestep_sampling", "in lower case: logit_normal, uniform, inverted_parabola"),
    "noising_bias": same("logit_mean"),
    "noising_weight": same("logit_std", "add 1"),
    "timestep_shift": same("discrete_flow_shift"),
    "dynamic_timestep_shifting": same("timestep_sampling", "logit_normal or flux_shift"),
    "min_noising_strength": same("min_timestep", "in timesteps, 0 to 1000"),
    "max_noising_strength": same("max_timestep", "in timesteps, 0 to 1000"),
    "masked_training": same("masked_loss", "with conditioning_data_dir in the dataset file"),
    "aspect_ratio_bucketing": same("enable_bucket"),
    "latent_caching": no_setting(MEMORY),
    "cache_dir": same("latent_cache_dir"),
    "train_dtype": same("mixed_precision"),
    "output_dtype": same("save_precision"),
    "output_model_destination": same("output_dir", "with --output_name"),
    "output_model_format": same("save_model_as"),
    "workspace_dir": same("output_dir"),
    "save_every": same("save_every_n_steps", "or --save_every_n_epochs, as save_every_unit says"),
    "save_after": same("save_every_n_steps", "or --save_every_n_epochs"),
    "sample_after": same("sample_every_n_steps", SAVED_IMAGES),
    "sample_definition_file_name": same("sample_prompts"),
    "backup_after": same("state_every_n_steps", STATES),
    "continue_last_backup": no_setting(IN_PLACE),
    "tensorboard": same("logging_dir", "setting a folder switches it on"),
}

AUTOMATIC1111 = {
    "embedding_name": same("token_string"),
    "initialization_text": same("init_word"),
    "nvpt": same("num_vectors_per_token"),
    "model_name": same("pretrained_model_name_or_path"),
    "learn_rate": same("learning_rate", 'stages such as "0.005:100, 1e-3:1000" are understood'),
    "embedding_learn_rate": same("learning_rate", 'stages such as "0.005:100, 1e-3:1000" are understood'),
    "batch_size": same("train_batch_size"),
    "gradient_step": same("gradient_accumulation_steps"),
    "data_root": same("train_data_dir"),
    "dataset_directory": same("train_data_dir"),
    "log_directory": same("output_dir"),
    "template_file": same("template_file"),
    "template_filename": same("template_file"),
    "prompt_template": same("template_file"),
    "textual_inversion_templates": same("template_file", "[name] and [filewords] are understood"),
    "training_width": same("resolution", 'both sides together: "512,768"'),
    "training_height": same("resolution", 'both sides together: "512,768"'),
    "varsize": same("enable_bucket"),
    "steps": same("max_train_steps"),
    "max_steps": same("max_train_steps"),
    "clip_grad_mode": same("max_grad_norm", "only the norm can be clipped"),
    "clip_grad_value": same("max_grad_norm"),
    "shuffle_tags": same("shuffle_caption"),
    "tag_drop_out": same("caption_tag_dropout_rate"),
    "latent_sampling_method": no_setting("latents are always sampled anew for every step, as by `random`"),
    "use_weight": same("alpha_mask"),
    "create_image_every": same("sample_every_n_steps", SAVED_IMAGES),
    "save_embedding_every": same("save_every_n_steps"),
    "save_image_with_stored_embedding": same("save_model_as", "png saves such an image"),
    "preview_from_txt2img": same("sample_prompts", "a file of prompts"),
}

KOHYA_GUI = {
    "max_resolution": same("resolution"),
    "lr_warmup": same("lr_warmup_steps", 'a percentage in the GUI: write "10%"'),
    "epoch": same("max_train_epochs"),
    "optimizer": same("optimizer_type"),
    "template": same("use_object_template", "or --use_style_template; neither for `caption`"),
    "use_wandb": same("log_with", "wandb"),
    "sdxl_no_half_vae": no_setting("the VAE always computes in float32"),
    "num_cpu_threads_per_process": no_setting("it belongs to accelerate launch"),
    "num_processes": no_setting("it belongs to accelerate launch"),
    "num_machines": no_setting("it belongs to accelerate launch"),
    "multi_gpu": no_setting("it belongs to accelerate launch"),
    "gpu_ids": no_setting("it belongs to accelerate launch"),
    "additional_parameters": no_setting("write them as flags"),
    "model_list": no_setting("it is only the GUI's list of models"),
}

OTHERS = {  # flags that people try although no program has them
    "resume_from": same("resume", IN_PLACE),
    "pretrained_embedding_path": same("weights"),
    "embedding_path": same("weights"),
    "trigger_word": same("token_string"),
    "trigger": same("token_string"),
    "instance_token": same("token_string"),
    "instance_prompt": same(
        "token_string", "the word alone; captions, templates or class_tokens give the text around it"
    ),
    "instance_data_dir": same("train_data_dir"),
    "class_data_dir": same("reg_data_dir"),
    "init_words": same("init_word"),
    "vectors_per_token": same("num_vectors_per_token"),
    "lr": same("learning_rate"),
    "training_shift": same("discrete_flow_shift", "with --timestep_sampling=sigma"),
    "n_tokens": same("num_vectors_per_token"),
    "num_tokens": same("num_vectors_per_token"),
    "init_text": same("init_word"),
    "initial_word": same("init_word"),
    "embedding": same("weights", "a file to start from; the new word is --token_string"),
    "class_prompt": no_setting("regularisation images, given with --reg_data_dir, have captions of their own"),
    "num_class_images": no_setting("regularisation images are not generated: pass existing ones with --reg_data_dir"),
    "only_save_embeds": no_setting("only the embedding is ever saved"),
    "train_text_encoder_ti": no_setting("only the embedding is ever trained"),
    "pivotal_frac": no_setting("only the embedding is trained, for --max_train_steps steps"),
}

TRAINERS = {
    "diffusers": DIFFUSERS,
    "invoke-training": INVOKE_TRAINING,
    "OneTrainer": ONETRAINER,
    "AUTOMATIC1111": AUTOMATIC1111,
    "the kohya_ss GUI": KOHYA_GUI,
    "other programs": OTHERS,
}

GENERATORS = {  # names in diffusers, AUTOMATIC1111's API and neonym train -> flags of neonym generate
    "pretrained_model_name_or_path": same("ckpt"),
    "model": same("ckpt"),
    "model_path": same("ckpt"),
    "embedding": same("textual_inversion_embeddings"),
    "embeddings": same("textual_inversion_embeddings"),
    "weights": same("textual_inversion_embeddings"),
    "token_string": same("textual_inversion_embeddings", "an embedding file, whose name is the word in prompts"),
    "lora": same("network_weights"),
    "lora_weights": same("network_weights"),
    "output_dir": same("outdir"),
    "num_inference_steps": same("steps"),
    "guidance_scale": same("scale"),
    "cfg_scale": same("scale"),
    "width": same("W"),
    "height": same("H"),
    "resolution": same("W", "and --H"),
    "num_images_per_prompt": same("images_per_prompt"),
    "num_images": same("images_per_prompt"),
    "n_samples": same("images_per_prompt"),
    "sampler_name": same("sampler"),
    "scheduler": same("sampler"),
    "prompt_file": same("from_file"),
    "sample_prompts": same("from_file"),
    "init_image": same("image_path"),
    "mixed_precision": same("fp16", "or --bf16"),
}

OTHER_SUBSET_KEYS = {  # keys of other programs' dataset files -> keys of a subset in Neonym
    "repeats": "num_repeats",
    "path": "image_dir",
    "folder_path": "image_dir",
    "dataset_dir": "image_dir",
    "data_root": "image_dir",
    "image_directory": "image_dir",
    "train_data_dir": "image_dir",
    "caption_ext": "caption_extension",
    "mask_path": "conditioning_data_dir",
    "in_json": "metadata_file",
    "jsonl_file": "metadata_file",
}


def meaning_of(name: str, known: Container[str]) -> str:
    """Return what a flag or key of other trainers means, for a command with the `known` flags.

    The answer is a sentence for each meaning, or an empty string if no other trainer has the name.
    """
    found: dict[Meaning, list[str]] = {}
    for trainer, words in {**TRAINERS, "other programs that generate": GENERATORS}.items():
        meaning = words.get(name)
        if meaning is not None and (meaning.setting or "token_string") in known:
            found.setdefault(meaning, []).append(trainer)
    return "; ".join(sentence(meaning, " and ".join(trainers)) for meaning, trainers in found.items())


def sentence(meaning: Meaning, trainers: str) -> str:
    """Return one meaning as a sentence without a full stop."""
    if not meaning.setting:
        return f"This setting of {trainers} does not exist in Neonym: {meaning.note}"
    note = f" ({meaning.note})" if meaning.note else ""
    return f"This setting of {trainers} is --{meaning.setting} in Neonym{note}"


def translations(keys: Iterable[str]) -> list[str]:
    """Return `key is --flag` for each key of another trainer's file that is a setting of Neonym."""
    found: dict[str, str] = {}
    for key in keys:
        for words in TRAINERS.values():
            if key in words and words[key].setting:
                found.setdefault(key, f"{key} is --{words[key].setting}")
    return list(found.values())
