"""The vocabulary of other trainers as data: the setting here that means what a flag or key of theirs means.

Messages about unknown flags and keys read it, and `docs/from-other-trainers.md` is made from it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Meaning:
    """A frozen record of what a flag or key of another trainer is here: a `setting`, or none, and what is different."""

    setting: str = ""
    note: str = ""


def same(setting: str, note: str = "") -> Meaning:
    """Return the meaning of a word that has a setting here."""
    return Meaning(setting, note)


def none(note: str) -> Meaning:
    """Return the meaning of a word that has no setting here, with the reason."""
    return Meaning("", note)


CAPTIONED = "without it, captions are read, which diffusers does not do"
SAVED_IMAGES = "needs --sample_prompts, a file of prompts"
NO_NEED = "the model's own tokenizer is used"
SCALED = "the rate that is given is the rate that is used: multiply it by batch size, accumulation steps and processes yourself"
ADAM = 'written --optimizer_args "betas=(0.9, 0.999)"'
IN_PLACE = "running the same command again goes on where it stopped"
STATES = "a state of kilobytes is always kept; --save_state keeps one beside every saved file"
MEMORY = "images are encoded once, before training"

DIFFUSERS = {
    "placeholder_token": same("token_string"),
    "initializer_token": same("init_word", "any number of words"),
    "num_vectors": same("num_vectors_per_token"),
    "learnable_property": same("use_object_template", f"or --use_style_template, for `style`; {CAPTIONED}"),
    "what_to_teach": same("use_object_template", f"or --use_style_template, for `style`; {CAPTIONED}"),
    "repeats": same("dataset_repeats", "it changes the length of an epoch only"),
    "num_train_epochs": same("max_train_epochs"),
    "save_steps": same("save_every_n_steps"),
    "scale_lr": none(SCALED),
    "lr_num_cycles": same("lr_scheduler_num_cycles"),
    "adam_beta1": same("optimizer_args", ADAM),
    "adam_beta2": same("optimizer_args", ADAM),
    "adam_epsilon": same("optimizer_args", "written --optimizer_args eps=1e-8"),
    "adam_weight_decay": same("weight_decay", "0 unless it is given"),
    "enable_xformers_memory_efficient_attention": same("xformers", "PyTorch's own attention is used always"),
    "checkpointing_steps": same("state_every_n_steps", STATES),
    "checkpoints_total_limit": same("save_last_n_steps_state", "counted in steps, not in states"),
    "resume_from_checkpoint": same("resume", f"it reads states of this program; {IN_PLACE}"),
    "validation_prompt": same("sample_prompts", "a file of prompts"),
    "num_validation_images": none("write a prompt in the file of --sample_prompts once for each image"),
    "validation_steps": same("sample_every_n_steps", SAVED_IMAGES),
    "validation_epochs": same("sample_every_n_epochs", SAVED_IMAGES),
    "report_to": same("log_with", "tensorboard needs --logging_dir"),
    "push_to_hub": same("huggingface_repo_id", "naming a repository switches uploads on"),
    "hub_model_id": same("huggingface_repo_id"),
    "hub_token": same("huggingface_token", "HF_TOKEN in the environment is safer"),
    "no_safe_serialization": same("save_model_as", "bin is diffusers' own layout"),
    "save_as_full_pipeline": none("the model stays as it is: only the embedding is saved"),
    "tokenizer_name": none(NO_NEED),
    "revision": none("fetch that revision and name its folder with --pretrained_model_name_or_path"),
    "center_crop": none("images are always cut in the middle, unless --random_crop or --enable_bucket is given"),
    "dataloader_num_workers": none(MEMORY),
    "allow_tf32": none("float32 is computed as float32; --mixed_precision=bf16 is faster"),
    "local_rank": none("accelerate launch tells each process its number"),
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
    "keep_original_captions": none("captions are read unless templates are asked for; [filewords] in a template is the caption"),
    "random_flip": same("flip_aug"),
    "center_crop": DIFFUSERS["center_crop"],
    "shuffle_caption_delimiter": same("shuffle_caption", "the delimiter is --caption_separator"),
    "aspect_ratio_buckets": same("enable_bucket", "with --min_bucket_reso and --max_bucket_reso"),
    "keep_in_memory": none(MEMORY),
    "cache_vae_outputs": none(MEMORY),
    "dataloader_num_workers": none(MEMORY),
    "use_masks": same("alpha_mask", "or masks by conditioning_data_dir in a data-set file, with --masked_loss"),
    "validate_every_n_steps": same("sample_every_n_steps", SAVED_IMAGES),
    "validate_every_n_epochs": same("sample_every_n_epochs", SAVED_IMAGES),
    "validation_prompts": same("sample_prompts", "a file with a prompt on each line"),
    "num_validation_images_per_prompt": DIFFUSERS["num_validation_images"],
    "max_checkpoints": same("save_last_n_steps", "counted in steps, not in files"),
    "weight_dtype": same("mixed_precision", "of the frozen model; the word stays float32"),
    "enable_cpu_offload_during_validation": none("nothing is moved between steps"),
}  # fmt: skip

ONETRAINER = {
    "base_model_name": same("pretrained_model_name_or_path"),
    "model_type": none("models are recognised"),
    "training_method": none("Textual Inversion is the only method"),
    "placeholder": same("token_string", "the word itself, without < >, as captions have it"),
    "initial_embedding_text": same("init_word"),
    "token_count": same("num_vectors_per_token"),
    "embedding_learning_rate": same("learning_rate"),
    "additional_embeddings": none("several words stand as [[concepts]] in a data-set file"),
    "is_output_embedding": none("vectors behind the text encoder are not supported"),
    "preserve_embedding_norm": none("the length of the vectors is free"),
    "concept_file_name": same("dataset_config", "a data-set file: each concept's path is the image_dir of a subset"),
    "concepts": same("dataset_config", "a data-set file: each concept's path is the image_dir of a subset"),
    "learning_rate_scheduler": same("lr_scheduler"),
    "learning_rate_warmup_steps": same("lr_warmup_steps"),
    "learning_rate_cycles": same("lr_scheduler_num_cycles"),
    "epochs": same("max_train_epochs"),
    "batch_size": same("train_batch_size"),
    "optimizer": same("optimizer_type"),
    "ema": same("ema_decay", "naming a decay switches it on"),
    "clip_grad_norm": same("max_grad_norm"),
    "offset_noise_weight": same("noise_offset"),
    "perturbation_noise_weight": same("ip_noise_gamma"),
    "rescale_noise_scheduler_to_zero_terminal_snr": same("zero_terminal_snr"),
    "min_noising_strength": same("min_timestep", "in timesteps, 0 to 1000"),
    "max_noising_strength": same("max_timestep", "in timesteps, 0 to 1000"),
    "masked_training": same("masked_loss", "with conditioning_data_dir in the data-set file"),
    "aspect_ratio_bucketing": same("enable_bucket"),
    "latent_caching": none(MEMORY),
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
    "continue_last_backup": none(IN_PLACE),
    "tensorboard": same("logging_dir", "naming a folder switches it on"),
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
    "clip_grad_mode": same("max_grad_norm", "only norms are clipped"),
    "clip_grad_value": same("max_grad_norm"),
    "shuffle_tags": same("shuffle_caption"),
    "tag_drop_out": same("caption_tag_dropout_rate"),
    "latent_sampling_method": none("latents are drawn anew for every step (`random` there)"),
    "use_weight": same("alpha_mask"),
    "create_image_every": same("sample_every_n_steps", SAVED_IMAGES),
    "save_embedding_every": same("save_every_n_steps"),
    "save_image_with_stored_embedding": same("save_model_as", "png is such a card"),
    "preview_from_txt2img": same("sample_prompts", "a file of prompts"),
}

KOHYA_GUI = {
    "max_resolution": same("resolution"),
    "lr_warmup": same("lr_warmup_steps", 'per cent there: write "10%"'),
    "epoch": same("max_train_epochs"),
    "optimizer": same("optimizer_type"),
    "template": same("use_object_template", "or --use_style_template; `caption` needs neither"),
    "use_wandb": same("log_with", "wandb"),
    "sdxl_no_half_vae": none("the VAE computes in float32 always"),
    "num_cpu_threads_per_process": none("it belongs to accelerate launch"),
    "num_processes": none("it belongs to accelerate launch"),
    "num_machines": none("it belongs to accelerate launch"),
    "multi_gpu": none("it belongs to accelerate launch"),
    "gpu_ids": none("it belongs to accelerate launch"),
    "additional_parameters": none("write them as flags"),
    "model_list": none("it is the GUI's own list of models"),
}

OTHERS = {  # flags that people try, and that no program has
    "resume_from": same("resume", IN_PLACE),
    "pretrained_embedding_path": same("weights"),
    "embedding_path": same("weights"),
    "trigger_word": same("token_string"),
    "trigger": same("token_string"),
    "instance_token": same("token_string"),
    "instance_prompt": same(
        "token_string", "the word alone; captions, templates or class_tokens are the text around it"
    ),
    "instance_data_dir": same("train_data_dir"),
    "class_data_dir": same("reg_data_dir"),
    "init_words": same("init_word"),
    "vectors_per_token": same("num_vectors_per_token"),
    "lr": same("learning_rate"),
    "n_tokens": same("num_vectors_per_token"),
    "num_tokens": same("num_vectors_per_token"),
    "init_text": same("init_word"),
    "initial_word": same("init_word"),
    "embedding": same("weights", "a file to start from; the new word is --token_string"),
    "class_prompt": none("regularisation images have captions of their own: --reg_data_dir"),
    "num_class_images": none("regularisation images are not made here: --reg_data_dir names those that are there"),
    "only_save_embeds": none("only the embedding is ever saved"),
    "train_text_encoder_ti": none("only the embedding is ever trained"),
    "pivotal_frac": none("only the embedding is trained, all the way: --max_train_steps"),
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
    "token_string": same("textual_inversion_embeddings", "the file; its name is the word in prompts"),
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


FOREIGN_KEYS = {  # keys of other programs' data-set files -> keys of a subset here
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
    """Return what a word of other trainers means among the `known` flags, as a sentence; empty if no trainer has it."""
    found: dict[Meaning, list[str]] = {}
    for trainer, words in {**TRAINERS, "other programs that generate": GENERATORS}.items():
        meaning = words.get(name)
        if meaning is not None and (meaning.setting or "token_string") in known:
            found.setdefault(meaning, []).append(trainer)
    return "; ".join(sentence(meaning, " and ".join(trainers)) for meaning, trainers in found.items())


def sentence(meaning: Meaning, trainers: str) -> str:
    """Return one meaning as a sentence."""
    if not meaning.setting:
        return f"It is a setting of {trainers}; here {meaning.note}"
    note = f" ({meaning.note})" if meaning.note else ""
    return f"In {trainers} it is what --{meaning.setting} is here{note}"


def translations(keys: Iterable[str]) -> list[str]:
    """Return `key is --flag` for every key of another trainer's file that has a setting here."""
    found: dict[str, str] = {}
    for key in keys:
        for words in TRAINERS.values():
            if key in words and words[key].setting:
                found.setdefault(key, f"{key} is --{words[key].setting}")
    return list(found.values())
