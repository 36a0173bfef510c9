"""Every setting of a training run: type, default, help and limits, in one place.

The tree is nested for the reader and flat for the user: sd-scripts' names are the flags. `None` as a default means
"found out from something else", which the help names: often the model (`models/defaults.py`).
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PrivateAttr

from neonym.config.flat import parse
from neonym.config.schema import Section, group, setting
from neonym.config.schema import fields_of as fields_of
from neonym.config.sdscripts import SDSCRIPTS, CompatSettings
from neonym.errors import Problem

BUILTIN = "builtin:emoji"
LONGEST = 10_000_000  # steps of a training
Sampler = Literal[
    "ddim", "pndm", "lms", "euler", "euler_a", "heun", "dpm_2", "dpm_2_a", "dpmsolver", "dpmsolver++", "dpmsingle",
    "k_lms", "k_euler", "k_euler_a", "k_dpm_2", "k_dpm_2_a",
]  # fmt: skip
Interpolation = Literal["lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area", "box"]
Unset = Annotated[str | None, BeforeValidator(lambda value: None if value == "" else value)]  # empty: not given
Count = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, (int, float)) else value)]


def _number_if_one(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


RateOrStages = Annotated[float | str | None, BeforeValidator(_number_if_one)]


class ModelSettings(Section):
    pretrained_model_name_or_path: str = setting(
        BUILTIN, "The model: a checkpoint file, a Diffusers folder, a hub ID (owner/name), or the built-in one."
    )
    vae: Unset = setting(None, "A VAE to use instead of the model's: a file, a Diffusers folder or a hub ID.")
    variant: Unset = setting(
        None, "Which weights of a Diffusers folder or hub ID to use where a part has several, such as fp16."
    )
    offline: bool = setting(False, "Never use the network, not even for a hub ID.")
    v2: bool = setting(False, "Say that the model is a Stable Diffusion 2.x; it is recognised without, and checked.")
    sdxl: bool = setting(
        False,
        "Say that the model is an SDXL, as sdxl_train_textual_inversion.py does; recognised without, and checked.",
    )
    v_parameterization: bool = setting(False, "Say that the model predicts v: for files that do not say it themselves.")
    max_token_length: Literal[75, 150, 225] = setting(75, "How many text tokens a caption may have.")
    clip_skip: int = setting(1, "Text encoder layer to use, counted from the end (1: the last).", least=1)


class ConceptSettings(Section):
    token_string: str | None = setting(None, "The new word, as it stands in captions and prompts.")
    init_word: str | None = setting(None, "Word or words whose vectors the new word starts from (default: picture).")
    num_vectors_per_token: int | None = setting(
        None,
        "How many vectors the word has; each takes one token of a prompt (default: as many as --weights has, or what suits "
        "the model: 4 for Stable Diffusion, 1 for the built-in model).",
        least=1,
        most=225,
    )
    weights: str | None = setting(None, "Embedding file to start from, instead of an init word.")
    train_encoders: tuple[str, ...] = setting(
        (), "Text encoders whose vectors learn: text_encoder, text_encoder_2 (default: all that the model has)."
    )


class DatasetSettings(Section):
    dataset_config: str | None = setting(None, "Data-set file (TOML or JSON) as sd-scripts reads it.")
    train_data_dir: str | None = setting(None, "Folder of pictures, or of `N_name` folders, instead of a file.")
    in_json: str | None = setting(None, "Metadata file (.json, .jsonl) of the pictures in train_data_dir.")
    reg_data_dir: str | None = setting(None, "Folder of `N_name` folders with regularisation pictures.")
    resolution: str | None = setting(None, 'Training size "S" or "W,H" (default: the model\'s own).')
    train_batch_size: int | None = setting(
        None, "Pictures per step and concept (default: what suits the model: 4).", least=1
    )
    dataset_repeats: int = setting(1, "How often a picture counts in an epoch.", least=1)
    caption_extension: str | None = setting(
        None, "Ending of caption files (default: .caption, then .txt where class_tokens lack the word)."
    )
    caption_separator: str = setting(",", "What stands between the tags of a caption.")
    caption_prefix: str | None = setting(None, "Text put before every caption.")
    caption_suffix: str | None = setting(None, "Text put after every caption.")
    shuffle_caption: bool = setting(False, "Shuffle the tags of a caption each time it is used.")
    keep_tokens: int = setting(0, "How many tags at the front are not shuffled.", least=0)
    keep_tokens_separator: str = setting("", "Text within captions: tags before the first, and after the second, stay.")
    secondary_separator: str | None = setting(None, "Holds tags together in shuffling; becomes the separator after it.")
    enable_wildcard: bool = setting(False, "Draw one of {a|b|c}, and one line of a caption with several.")
    caption_dropout_rate: float = setting(0.0, "Share of draws whose caption is dropped down to the word.", least=0)
    caption_dropout_every_n_epochs: int = setting(0, "Drop all captions down to the word in every n-th epoch.")
    caption_tag_dropout_rate: float = setting(0.0, "Share of the tags that are dropped, never the word's.", least=0)
    token_warmup_min: int = setting(1, "Tags that a caption begins with under token_warmup_step.", least=0)
    token_warmup_step: float = setting(
        0.0, "Steps (below 1: share of the training) until a caption has all its tags.", least=0
    )
    use_object_template: bool = setting(False, "Train on sentences for an object with the word, instead of captions.")
    use_style_template: bool = setting(False, "Train on sentences for a style with the word, instead of captions.")
    template_file: str | None = setting(
        None, "Train on the lines of this file instead: [name] or {} is the word, [filewords] the caption."
    )
    weighted_captions: bool = setting(False, "Read (text:1.3), (text) and [text] in captions as weights.")
    flip_aug: bool = setting(False, "Mirror a picture half of the time.")
    color_aug: bool = setting(False, "Change hue or brightness a little, one time in three.")
    random_crop: bool = setting(False, "Cut pictures at random places instead of in the middle.")
    face_crop_aug_range: str | None = setting(
        None, 'Zoom "low,high" about the face that the file name gives (name_x_y_width_height), without buckets.'
    )
    resize_interpolation: Interpolation | None = setting(None, "How pictures are scaled (default: lanczos).")
    alpha_mask: bool = setting(False, "Weigh the loss by how opaque a picture is.")
    masked_loss: bool = setting(
        False, "Weigh the loss by the mask pictures of conditioning_data_dir (in the data-set file)."
    )
    background: str = setting("white", "Colour under transparent pixels: a name or #rrggbb.")
    sdscripts_latents: bool = setting(
        False, "Read latents that sd-scripts cached beside the pictures (.npz), where they have the right shape."
    )
    broken_images: Literal["skip", "stop"] = setting(
        "stop", "Before training, stop for pictures that cannot be read, or go on without them; they are named."
    )
    enable_bucket: bool = setting(False, "Train pictures in buckets of their own shape instead of cutting all to one.")
    min_bucket_reso: int = setting(256, "Shortest side of a bucket.", least=8)
    max_bucket_reso: int = setting(1024, "Longest side of a bucket.", least=8)
    bucket_reso_steps: int = setting(64, "Bucket sides are multiples of this; itself a multiple of 8.", least=8)
    bucket_no_upscale: bool = setting(False, "Never enlarge a picture.")
    prior_loss_weight: float = setting(1.0, "Weight of regularisation pictures in the loss.", least=0)


class OptimSettings(Section):
    optimizer_type: str = setting("AdamW", "Optimizer: one of sd-scripts' names (in any case), or a dotted path.")
    optimizer_args: tuple[str, ...] = setting((), 'Its arguments: "name=value", values as in Python.')
    learning_rate: RateOrStages = setting(
        None,
        "Learning rate of the rows (default: what suits the model's words: 4e-3 for Stable Diffusion 1.x and 2.x, 2e-3 for SDXL, "
        "0.02 for the built-in model; 1 for DAdapt* and Prodigy, which find it), or stages as "
        'AUTOMATIC1111 writes them: "0.005:100, 1e-3:1000, 5e-4".',
        above=0,
    )
    lr_scheduler: str = setting("cosine", "How the learning rate changes over the steps: one of sd-scripts' names.")
    lr_scheduler_type: str = setting("", "A class of torch.optim.lr_scheduler, or a dotted path, instead.")
    lr_scheduler_args: tuple[str, ...] = setting((), 'Its arguments: "name=value".')
    lr_warmup_steps: Count | None = setting(
        None,
        'Steps of linear warm-up, or a share ("0.1", "10%") (default: what suits the model: 10 % of the '
        "run for Stable Diffusion; at least 30, at most 30 % of the run; none for `constant`).",
    )
    lr_decay_steps: Count | None = setting(None, "Steps, or share, of the decay of `warmup_stable_decay`.")
    lr_scheduler_num_cycles: int = setting(1, "Restarts of `cosine_with_restarts`.", least=1)
    lr_scheduler_power: float = setting(1.0, "Exponent of `polynomial`.", above=0)
    lr_scheduler_timescale: int | None = setting(None, "Time scale of `inverse_sqrt` (default: the warm-up).", least=1)
    lr_scheduler_min_lr_ratio: float | None = setting(
        None,
        "Lowest rate of `cosine_with_min_lr` and `warmup_stable_decay`, as a share of the learning rate.",
        least=0,
        most=1,
    )
    max_train_steps: int | None = setting(
        None,
        "Length of the training in optimizer steps (default: what suits the model: 2000 for Stable Diffusion, 100 for the "
        "built-in model).",
        least=1,
        most=LONGEST,
    )
    max_train_epochs: int | None = setting(
        None, "Length in epochs instead; it wins over the steps.", least=1, most=LONGEST
    )
    max_train_time: float | None = setting(None, "End after so many minutes, as if that were the last step.", above=0)
    initial_step: int | None = setting(
        None, "Begin at this step of the plan: the steps before are passed over.", least=0
    )
    initial_epoch: int | None = setting(None, "Begin at this epoch of the plan (1: the first).", least=1)
    gradient_accumulation_steps: int = setting(
        1, "Micro-batches per step: each step uses this many times the batch size.", least=1
    )
    weight_decay: float | None = setting(
        None, "Weight decay (default: the optimizer's, none for AdamW: it shrinks a word, learned or not).", least=0
    )
    max_grad_norm: float = setting(1.0, "Clip the gradient of a concept's rows to this norm; 0: do not clip.", least=0)
    ema_decay: float | None = setting(None, "Save the rows' moving average with this decay, such as 0.99.", above=0)
    seed: int = setting(0, "All random draws follow from it.", least=0)


class ObjectiveSettings(Section):
    loss_type: Literal["l2", "l1", "huber", "smooth_l1"] = setting("l2", "Distance of a prediction from its target.")
    huber_schedule: Literal["constant", "exponential", "snr"] = setting(
        "snr", "How the threshold of the huber losses depends on the noise level."
    )
    huber_c: float = setting(0.1, "Threshold of the huber losses.", above=0)
    huber_scale: float = setting(1.0, "Factor of the threshold, under every schedule.", above=0)
    min_snr_gamma: float | None = setting(None, "Min-SNR weights with this gamma (5 is usual).", least=0)
    scale_v_pred_loss_like_noise_pred: bool = setting(
        False, "Weigh a v-prediction model's loss as if it predicted noise."
    )
    v_pred_like_loss: float | None = setting(None, "Add so much of a loss weighed as v-prediction's.", least=0)
    debiased_estimation_loss: bool = setting(False, "Weights 1 / sqrt(SNR), or 1 / (SNR + 1) under v-prediction.")
    noise_offset: float | None = setting(None, "Add so much noise that is constant over a channel.", least=0)
    noise_offset_random_strength: bool = setting(False, "Draw the strength of each sample between 0 and noise_offset.")
    adaptive_noise_scale: float | None = setting(None, "Add so much of each channel's mean to noise_offset.")
    multires_noise_iterations: int | None = setting(None, "Levels of multi-resolution noise.", least=0)
    multires_noise_discount: float = setting(0.3, "Strength of each level against the one before.", above=0)
    ip_noise_gamma: float | None = setting(None, "Input perturbation: extra noise that is not asked for.", least=0)
    ip_noise_gamma_random_strength: bool = setting(
        False, "Draw its strength for each sample between 0 and the given one."
    )
    mask_normalize: bool = setting(
        False, "Divide a masked loss by the area of its mask, so that small masks count as much."
    )
    min_timestep: int | None = setting(None, "Lowest timestep trained on (default 0).", least=0)
    max_timestep: int | None = setting(None, "Timesteps stay below this (default 1000).", least=1)
    zero_terminal_snr: bool = setting(False, "Rescale the noise schedule so that the last step is pure noise.")
    timestep_sampling: Literal["uniform", "stratified"] = setting(
        "stratified", "Timesteps spread evenly over the samples of a step and from step to step, or at random."
    )


class ComputeSettings(Section):
    mixed_precision: Literal["no", "fp16", "bf16"] | None = setting(
        None,
        "Precision of the frozen model's arithmetic (default: on a CUDA device what suits the model: bf16 for Stable Diffusion, or "
        "fp16 where there is none, but float32 for 2.x; float32 on other devices and for the built-in model).",
    )
    fp8_base: bool = setting(
        False, "Keep the U-Net's weights in 8 bits: half of fp16's memory, a little less exact and slower."
    )
    gradient_checkpointing: bool = setting(False, "Recompute activations to save memory: half as slow again.")
    xformers: bool = setting(False, "Accepted from sd-scripts: PyTorch's own attention is used, with the same result.")
    sdpa: bool = setting(False, "PyTorch's scaled-dot-product attention: always on.")
    mem_eff_attn: bool = setting(False, "Accepted from sd-scripts: PyTorch's own attention saves memory already.")
    micro_batch_size: int | None = setting(
        None,
        "Most samples that go through the model together (default: the batch size; 1 on a GPU with too little memory for "
        "the model). Changes memory only.",
        least=1,
    )
    torch_compile: bool = setting(
        False, "Compile the U-Net (torch.compile): the first steps are slow, the others faster."
    )
    dynamo_backend: str = setting("inductor", "Backend of torch_compile.")
    ddp_timeout: int | None = setting(
        None,
        "Minutes that processes wait for each other (default: 10, with sample pictures 120).",
        least=0,
        most=1_000_000,
    )
    cpu: bool = setting(False, "Use the CPU even where there is a GPU.")


class CacheSettings(Section):
    cache_latents: bool = setting(False, "Accepted from sd-scripts: pictures are always encoded once, before training.")
    cache_latents_to_disk: bool = setting(False, "Keep the encoded pictures on disk for the next run.")
    latent_cache_dir: str | None = setting(None, "Where they are kept (default: `neonym` in the user's cache folder).")


class SaveSettings(Section):
    output_dir: str = setting("outputs", "Folder of the embedding file and of the run's records.")
    output_name: str | None = setting(None, "File name without ending (default: the token).")
    save_model_as: Literal["safetensors", "pt", "ckpt", "bin", "png"] = setting(
        "safetensors", "Format of the embedding file; .safetensors is read by every program."
    )
    save_precision: Literal["float", "fp16", "bf16"] = setting("float", "Numbers in the file; float is exact.")
    save_every_n_steps: int | None = setting(
        None,
        "Also save a file every so many steps (default: every 100 for Stable Diffusion, into `steps` of the run's folder, unless "
        "there are files by epoch).",
        least=1,
    )
    save_every_n_epochs: int | None = setting(None, "Also save a file every so many epochs.", least=1)
    save_n_epoch_ratio: int | None = setting(
        None, "Save about so many files, evenly over the epochs; it wins over save_every_n_epochs.", least=0
    )
    save_last_n_steps: int | None = setting(None, "Keep only files of the last so many steps.", least=1)
    save_last_n_epochs: int | None = setting(None, "Keep only the files of the last so many epoch saves.", least=1)
    save_state: bool = setting(False, "Keep a state beside every saved file, to resume from with --resume: kilobytes.")
    save_state_on_train_end: bool = setting(False, "Keep the state of the end.")
    save_last_n_steps_state: int | None = setting(None, "As save_last_n_steps, for states.", least=1)
    save_last_n_epochs_state: int | None = setting(None, "As save_last_n_epochs, for states.", least=1)
    resume: Unset = setting(None, "Go on from this state folder instead of the run's own state.")
    state_every_n_steps: int = setting(25, "Save what resuming needs every so many steps: kilobytes.", least=1)
    restart: bool = setting(False, "Begin anew although an interrupted or finished run with the same name is there.")


class SampleSettings(Section):
    sample_prompts: Unset = setting(None, "File of prompts (.txt, .toml, .json) to draw while training.")
    sample_every_n_steps: int | None = setting(None, "Draw them every so many steps.")
    sample_every_n_epochs: int | None = setting(None, "Draw them every so many epochs; it wins over the steps.")
    sample_at_first: bool = setting(False, "Draw them before the first step too.")
    sample_sampler: Sampler = setting("ddim", "Sampler of prompts that name none.")


class MetadataSettings(Section):
    """Each is written as `modelspec.NAME`, of .safetensors files only."""

    metadata_title: str | None = setting(None, "Title of the file (default: its name).")
    metadata_author: str | None = setting(None, "Author of the file.")
    metadata_description: str | None = setting(None, "What it is.")
    metadata_license: str | None = setting(None, "Licence of the file.")
    metadata_tags: str | None = setting(None, "Tags, with commas between them.")
    metadata_usage_hint: str | None = setting(None, "How to use it.")
    metadata_thumbnail: str | None = setting(
        None, "Thumbnail: a picture file, which is put into the file, or a data URL."
    )
    metadata_merged_from: str | None = setting(None, "What it was merged from.")
    metadata_trigger_phrase: str | None = setting(None, "What to write in a prompt (default: the token).")
    metadata_preprocessor: str | None = setting(None, "How the pictures were prepared.")
    metadata_is_negative_embedding: str | None = setting(None, "Whether it is for negative prompts.")


class LogSettings(Section):
    logging_dir: str | None = setting(None, "Folder of TensorBoard's logs; naming one switches TensorBoard on.")
    log_with: Literal["tensorboard", "wandb", "all"] | None = setting(None, "Trackers that follow the run.")
    log_prefix: str | None = setting(None, "What the name of the folder within logging_dir begins with.")
    log_tracker_name: str | None = setting(None, "Name of the project (default: textual_inversion).")
    wandb_run_name: str | None = setting(None, "Name of the run at Weights & Biases.")
    log_tracker_config: str | None = setting(None, "TOML file with arguments for the trackers, a table for each.")
    wandb_api_key: str | None = setting(None, "Key for Weights & Biases; WANDB_API_KEY in the environment is safer.")
    console_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = setting(
        "INFO", "Notes below this level are not shown; the verdict always is."
    )
    console_log_file: str | None = setting(None, "Write notes and warnings to this file instead of the terminal.")
    log_config: bool = setting(False, "Log the settings too, without paths and keys.")


class HubSettings(Section):
    huggingface_repo_id: str | None = setting(None, "Upload every saved file to this repository (owner/name).")
    huggingface_repo_type: Literal["model", "dataset", "space"] = setting("model", "Kind of the repository.")
    huggingface_path_in_repo: str | None = setting(None, "Folder within it.")
    huggingface_token: str | None = setting(None, "Token; HF_TOKEN in the environment, or a login, is safer.")
    huggingface_repo_visibility: Literal["public", "private"] | None = setting(
        None, "Of a repository that is made (default: private)."
    )
    save_state_to_huggingface: bool = setting(False, "Upload states too.")
    resume_from_huggingface: bool = setting(False, "--resume names a state on the hub: owner/repo/folder[:revision].")
    async_upload: bool = setting(False, "Upload in the background.")


class EvalSettings(Section):
    eval_every_n_steps: int = setting(
        0,
        "Measure the evaluation loss every so many steps; 0: at the start and end, or with early_stop what suits the model (50 "
        "for Stable Diffusion, 5 for the built-in model).",
        least=0,
    )
    early_stop: bool = setting(
        False, "End when the evaluation loss has stopped changing, and keep the vectors of its lowest value."
    )
    early_stop_window: int = setting(5, "How many of the last evaluations must agree.", least=2)
    early_stop_threshold: float = setting(0.02, "Their variance, as a share of that of all evaluations.", above=0)
    eval_samples: int = setting(
        64, "How many (picture, noise, timestep) triples an evaluation has.", least=8, most=100_000
    )
    validation_split: float = setting(0.0, "Share of the pictures held out of training for evaluation.", least=0)
    validation_seed: int = setting(0, "Chooses which pictures are held out.", least=0)


class RunConfig(Section):
    """All settings of one training run."""

    model: ModelSettings = group(ModelSettings)
    concept: ConceptSettings = group(ConceptSettings)
    dataset: DatasetSettings = group(DatasetSettings)
    optim: OptimSettings = group(OptimSettings)
    objective: ObjectiveSettings = group(ObjectiveSettings)
    compute: ComputeSettings = group(ComputeSettings)
    cache: CacheSettings = group(CacheSettings)
    save: SaveSettings = group(SaveSettings)
    sample: SampleSettings = group(SampleSettings)
    log: LogSettings = group(LogSettings)
    metadata: MetadataSettings = group(MetadataSettings)
    hub: HubSettings = group(HubSettings)
    eval: EvalSettings = group(EvalSettings)

    _notes: tuple[Problem, ...] = PrivateAttr(())

    @property
    def notes(self) -> tuple[Problem, ...]:
        """Warnings and notes about the names that `parse` was given; `neonym.check` repeats them."""
        return self._notes

    @classmethod
    def parse(cls, **settings: Any) -> "RunConfig":
        """Return the settings under their flat names, as on the command line and in config files.

        Values are plain Python: `resolution=(512, 768)`, `optimizer_args=["betas=(0.9, 0.99)"]`, paths. sd-scripts' names are
        understood as on the command line. Raises ConfigError with every unknown name and every wrong value at once.
        """
        run, notes = parse(cls, settings, CompatSettings, SDSCRIPTS)
        run._notes = tuple(notes)
        return run
