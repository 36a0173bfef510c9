"""Every setting of a training run, with its type, default, help and limits.

The tree is nested for the reader and flat for the user: sd-scripts' names are the flags. A setting whose default is
`None` takes its value from somewhere else, which its help names: often from the model (`models/defaults.py`).
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PrivateAttr

from neonym.config.flat import parse
from neonym.config.schema import Section, group, setting
from neonym.config.schema import fields_of as fields_of
from neonym.config.sdscripts import SDSCRIPTS, CompatSettings
from neonym.config.values import Arguments, Colour, Range, Rate, Resolution, Steps, schedule_name
from neonym.errors import Problem

BUILTIN = "builtin:emoji"
LONGEST = 10_000_000  # steps of a training
Sampler = Literal[
    "ddim", "pndm", "lms", "euler", "euler_a", "heun", "dpm_2", "dpm_2_a", "dpmsolver", "dpmsolver++", "dpmsingle",
    "k_lms", "k_euler", "k_euler_a", "k_dpm_2", "k_dpm_2_a",
]  # fmt: skip
Interpolation = Literal["lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area", "box"]
Unset = Annotated[str | None, BeforeValidator(lambda value: None if value == "" else value)]  # empty: not given


class ModelSettings(Section):
    pretrained_model_name_or_path: str = setting(
        BUILTIN, "The model: a checkpoint file, a Diffusers folder, a hub ID (owner/name), or the built-in one."
    )
    vae: Unset = setting(None, "A VAE to use instead of the model's: a file, a Diffusers folder or a hub ID.")
    variant: Unset = setting(
        None, "Which weights of a Diffusers folder or hub ID to use where a part has several, such as fp16."
    )
    offline: bool = setting(False, "Never use the network, not even for a hub ID.")
    v2: bool = setting(
        False,
        "Say that the model is a Stable Diffusion 2.x. It is recognised without this flag; a wrong flag is an error.",
    )
    sdxl: bool = setting(
        False,
        "Say that the model is an SDXL, as sdxl_train_textual_inversion.py does. It is recognised without this flag; "
        "a wrong flag is an error.",
    )
    v_parameterization: bool = setting(False, "Say that the model predicts v, for a file that does not say so itself.")
    max_token_length: Literal[75, 150, 225] = setting(75, "The most text tokens that a caption may have.")
    clip_skip: int = setting(1, "The text encoder layer to use, counted from the end (1: the last).", least=1)


class ConceptSettings(Section):
    token_string: str | None = setting(None, "The new word, as it is written in captions and prompts.")
    init_word: str | None = setting(
        None, "The word or words whose vectors the new word starts from (default: picture)."
    )
    num_vectors_per_token: int | None = setting(
        None,
        "How many vectors the word has; each takes one token of a prompt (default: as many as the --weights file "
        "has, else what "
        "suits the model: 4 for Stable Diffusion, 1 for the built-in model).",
        least=1,
        most=225,
    )
    weights: str | None = setting(None, "An embedding file to start from instead of an init word.")
    train_encoders: tuple[str, ...] = setting(
        (), "The text encoders whose vectors learn: text_encoder, text_encoder_2 (default: all that the model has)."
    )


class DatasetSettings(Section):
    dataset_config: str | None = setting(None, "A data-set file (TOML or JSON) as sd-scripts reads it.")
    train_data_dir: str | None = setting(
        None, "A folder of images, or of `N_name` folders, instead of a data-set file."
    )
    in_json: str | None = setting(None, "A metadata file (.json, .jsonl) for the images in train_data_dir.")
    reg_data_dir: str | None = setting(None, "A folder of `N_name` folders with regularisation images.")
    resolution: Resolution | None = setting(None, 'The training size, "S" or "W,H" (default: the model\'s own).')
    train_batch_size: int | None = setting(
        None, "Images per step and word (default: what suits the model: 4).", least=1
    )
    dataset_repeats: int = setting(1, "How often an image counts in an epoch.", least=1)
    caption_extension: str | None = setting(
        None, "The ending of caption files (default: .caption, then .txt where class_tokens lack the word)."
    )
    caption_separator: str = setting(",", "The text between the tags of a caption.")
    caption_prefix: str | None = setting(None, "A text put before every caption.")
    caption_suffix: str | None = setting(None, "A text put after every caption.")
    shuffle_caption: bool = setting(False, "Shuffle the tags of a caption each time it is used.")
    keep_tokens: int = setting(0, "How many tags at the front are never shuffled.", least=0)
    keep_tokens_separator: str = setting(
        "", "A text within captions: the tags before its first occurrence, and after its second, stay in place."
    )
    secondary_separator: str | None = setting(
        None, "A text that holds tags together while they are shuffled, and becomes the separator afterwards."
    )
    enable_wildcard: bool = setting(
        False, "Choose one of {a|b|c}, and one line of a caption with several, each time a caption is used."
    )
    caption_dropout_rate: float = setting(0.0, "The share of captions that are cut down to the word.", least=0)
    caption_dropout_every_n_epochs: int = setting(0, "Cut all captions down to the word in every n-th epoch.")
    caption_tag_dropout_rate: float = setting(0.0, "The share of tags that are dropped, never the word's.", least=0)
    token_warmup_min: int = setting(
        1, "How many tags captions have at the first step under token_warmup_step.", least=0
    )
    token_warmup_step: float = setting(
        0.0, "Steps until captions have all their tags (below 1: a share of the training).", least=0
    )
    use_object_template: bool = setting(False, "Train on sentences about an object with the word instead of captions.")
    use_style_template: bool = setting(False, "Train on sentences about a style with the word instead of captions.")
    template_file: str | None = setting(
        None, "Train on the lines of this file instead of captions: [name] or {} is the word, [filewords] the caption."
    )
    weighted_captions: bool = setting(False, "Read (text:1.3), (text) and [text] in captions as emphasis.")
    flip_aug: bool = setting(False, "Mirror an image half of the time.")
    color_aug: bool = setting(False, "Change hue or brightness a little, one time in three.")
    random_crop: bool = setting(False, "Crop images at random places instead of in the middle.")
    face_crop_aug_range: Range | None = setting(
        None, 'Zoom by "low,high" into the face that the file name gives (name_x_y_width_height), without buckets.'
    )
    resize_interpolation: Interpolation | None = setting(None, "How images are scaled (default: lanczos).")
    alpha_mask: bool = setting(False, "Weight the loss by how opaque an image is.")
    masked_loss: bool = setting(
        False, "Weight the loss by the mask images of conditioning_data_dir (in the data-set file)."
    )
    background: Colour = setting(Colour.parse("white"), "The colour under transparent pixels: a name or #rrggbb.")
    sdscripts_latents: bool = setting(
        False, "Read latents that sd-scripts cached beside the images (.npz), where they have the right shape."
    )
    broken_images: Literal["skip", "stop"] = setting(
        "stop",
        "What to do about images that cannot be read: stop before the training, or go on without them. They are named.",
    )
    enable_bucket: bool = setting(
        False, "Train images in buckets of about their own shape instead of cropping all to one."
    )
    min_bucket_reso: int = setting(256, "The shortest side of a bucket.", least=8)
    max_bucket_reso: int = setting(1024, "The longest side of a bucket.", least=8)
    bucket_reso_steps: int = setting(64, "Bucket sides are multiples of this; itself a multiple of 8.", least=8)
    bucket_no_upscale: bool = setting(False, "Never enlarge an image.")
    prior_loss_weight: float = setting(1.0, "The weight of regularisation images in the loss.", least=0)


class OptimSettings(Section):
    optimizer_type: str = setting("AdamW", "The optimizer: one of sd-scripts' names (in any case), or a dotted path.")
    optimizer_args: Arguments = setting(Arguments(), 'Arguments of the optimizer: "name=value", values as in Python.')
    learning_rate: Rate | None = setting(
        None,
        "The learning rate of the vectors (default: what suits the model's words: 4e-3 for Stable Diffusion 1.x and "
        "2.x, 2e-3 for SDXL, "
        "0.02 for the built-in model; 1 for DAdapt* and Prodigy, which find it), or stages as "
        'AUTOMATIC1111 writes them: "0.005:100, 1e-3:1000, 5e-4".',
        above=0,
    )
    lr_scheduler: str = setting("cosine", "How the learning rate changes over the steps: one of sd-scripts' names.")
    lr_scheduler_type: str = setting(
        "", "A class of torch.optim.lr_scheduler, or a dotted path, instead of lr_scheduler."
    )
    lr_scheduler_args: Arguments = setting(Arguments(), 'Arguments of the schedule: "name=value".')
    lr_warmup_steps: Steps | None = setting(
        None,
        'Steps of linear warm-up, or a share ("0.1", "10%") (default: what suits the model: 10 % of the '
        "run for Stable Diffusion; at least 30, at most 30 % of the run; none for `constant`).",
    )
    lr_decay_steps: Steps | None = setting(None, "The decay of `warmup_stable_decay`: steps, or a share.")
    lr_scheduler_num_cycles: int = setting(1, "How many cycles `cosine_with_restarts` has.", least=1)
    lr_scheduler_power: float = setting(1.0, "The exponent of `polynomial`.", above=0)
    lr_scheduler_timescale: int | None = setting(
        None, "The time scale of `inverse_sqrt` (default: the warm-up).", least=1
    )
    lr_scheduler_min_lr_ratio: float | None = setting(
        None,
        "The lowest rate of `cosine_with_min_lr` and `warmup_stable_decay`, as a share of the learning rate.",
        least=0,
        most=1,
    )
    max_train_steps: int | None = setting(
        None,
        "The length of the training in optimizer steps (default: what suits the model: 2000 for Stable Diffusion, "
        "100 for the "
        "built-in model).",
        least=1,
        most=LONGEST,
    )
    max_train_epochs: int | None = setting(
        None, "The length of the training in epochs; it takes precedence over the steps.", least=1, most=LONGEST
    )
    max_train_time: float | None = setting(
        None, "End the training after so many minutes, as if that were the last step.", above=0
    )
    initial_step: int | None = setting(None, "Begin at this step; the steps before it are skipped.", least=0)
    initial_epoch: int | None = setting(None, "Begin at this epoch (1: the first).", least=1)
    gradient_accumulation_steps: int = setting(
        1, "Micro-batches per step: a step uses this many times the batch size.", least=1
    )
    weight_decay: float | None = setting(
        None,
        "Weight decay (default: the optimizer's; none for AdamW, because it shrinks a word whether it learns or not).",
        least=0,
    )
    max_grad_norm: float = setting(1.0, "Clip the gradient of a word's vectors to this norm; 0: do not clip.", least=0)
    ema_decay: float | None = setting(
        None, "Save the moving average of the vectors with this decay, such as 0.99.", above=0
    )
    seed: int = setting(0, "The seed of everything random.", least=0)

    @property
    def schedule(self) -> str:
        """The name of the schedule as listed, whatever its case."""
        return schedule_name(self.lr_scheduler)

    @property
    def optimizer_arguments(self) -> dict[str, Any]:
        """The arguments of the optimizer by name, the weight decay among them if it was given."""
        decay = {} if self.weight_decay is None else {"weight_decay": self.weight_decay}
        return {**decay, **self.optimizer_args.values}


class ObjectiveSettings(Section):
    loss_type: Literal["l2", "l1", "huber", "smooth_l1"] = setting(
        "l2", "The distance between a prediction and its target."
    )
    huber_schedule: Literal["constant", "exponential", "snr"] = setting(
        "snr", "How the threshold of the huber losses depends on the noise level."
    )
    huber_c: float = setting(0.1, "The threshold of the huber losses.", above=0)
    huber_scale: float = setting(1.0, "A factor of the threshold, under every schedule.", above=0)
    min_snr_gamma: float | None = setting(None, "Min-SNR loss weights with this gamma (5 is usual).", least=0)
    scale_v_pred_loss_like_noise_pred: bool = setting(
        False, "Weight the loss of a v-prediction model as if it predicted noise."
    )
    v_pred_like_loss: float | None = setting(None, "Add so much of the loss, weighted as for v-prediction.", least=0)
    debiased_estimation_loss: bool = setting(
        False, "Loss weights of 1 / sqrt(SNR), or 1 / (SNR + 1) under v-prediction."
    )
    noise_offset: float | None = setting(None, "Add noise of this strength that is constant over a channel.", least=0)
    noise_offset_random_strength: bool = setting(False, "Draw the strength for each sample between 0 and noise_offset.")
    adaptive_noise_scale: float | None = setting(None, "Add each channel's mean, times this, to noise_offset.")
    multires_noise_iterations: int | None = setting(None, "How many levels multi-resolution noise has.", least=0)
    multires_noise_discount: float = setting(0.3, "The strength of each level as a share of the level before.", above=0)
    ip_noise_gamma: float | None = setting(
        None, "Input perturbation: the strength of extra noise that the model does not have to predict.", least=0
    )
    ip_noise_gamma_random_strength: bool = setting(
        False, "Draw the strength for each sample between 0 and ip_noise_gamma."
    )
    mask_normalize: bool = setting(
        False, "Divide a masked loss by the area of its mask, so that small masks count as much as large ones."
    )
    min_timestep: int | None = setting(None, "The lowest timestep trained on (default: 0).", least=0)
    max_timestep: int | None = setting(None, "Timesteps stay below this (default: 1000).", least=1)
    zero_terminal_snr: bool = setting(False, "Rescale the noise schedule so that the last step is pure noise.")
    timestep_sampling: Literal["uniform", "stratified"] = setting(
        "stratified",
        "Spread timesteps evenly over the samples of a step and from step to step, or draw them at random.",
    )


class ComputeSettings(Section):
    mixed_precision: Literal["no", "fp16", "bf16"] | None = setting(
        None,
        "The precision of the frozen model's arithmetic (default: on a CUDA device what suits the model: bf16 for "
        "Stable Diffusion, or "
        "fp16 where there is none, but float32 for 2.x; float32 on other devices and for the built-in model).",
    )
    fp8_base: bool = setting(
        False, "Keep the U-Net's weights in 8 bits: half the memory of fp16, a little less exact and slower."
    )
    gradient_checkpointing: bool = setting(
        False, "Recompute activations to save memory; a step takes half as long again."
    )
    xformers: bool = setting(False, "Accepted from sd-scripts: PyTorch's own attention is used, with the same result.")
    sdpa: bool = setting(False, "PyTorch's scaled dot-product attention; always on.")
    mem_eff_attn: bool = setting(False, "Accepted from sd-scripts: PyTorch's own attention saves memory already.")
    micro_batch_size: int | None = setting(
        None,
        "The most samples that go through the model at once (default: the batch size; 1 on a GPU with too little "
        "memory for "
        "the model). It changes memory only.",
        least=1,
    )
    torch_compile: bool = setting(
        False, "Compile the U-Net (torch.compile): the first steps are slower, the others faster."
    )
    dynamo_backend: str = setting("inductor", "The backend of torch_compile.")
    ddp_timeout: int | None = setting(
        None,
        "How many minutes processes wait for each other (default: 10; 120 with sample images).",
        least=0,
        most=1_000_000,
    )
    cpu: bool = setting(False, "Use the CPU even where there is a GPU.")


class CacheSettings(Section):
    cache_latents: bool = setting(False, "Accepted from sd-scripts: images are always encoded once, before training.")
    cache_latents_to_disk: bool = setting(False, "Keep the encoded images on disk for the next run.")
    latent_cache_dir: str | None = setting(
        None, "The folder where they are kept (default: `neonym` in the user's cache folder)."
    )


class SaveSettings(Section):
    output_dir: str = setting("outputs", "The folder of the embedding file and of the run's records.")
    output_name: str | None = setting(None, "The file name without ending (default: the word).")
    save_model_as: Literal["safetensors", "pt", "ckpt", "bin", "png"] = setting(
        "safetensors", "The format of the embedding file; every program reads .safetensors."
    )
    save_precision: Literal["float", "fp16", "bf16"] = setting(
        "float", "The precision of the numbers in the file; float is exact."
    )
    save_every_n_steps: int | None = setting(
        None,
        "Also save a file every so many steps (default: every 100 for Stable Diffusion, into `steps` in the run's "
        "folder, unless "
        "files are saved by epoch).",
        least=1,
    )
    save_every_n_epochs: int | None = setting(None, "Also save a file every so many epochs.", least=1)
    save_n_epoch_ratio: int | None = setting(
        None, "Save about so many files, evenly over the epochs; it takes precedence over save_every_n_epochs.", least=0
    )
    save_last_n_steps: int | None = setting(None, "Keep only the files of the last so many steps.", least=1)
    save_last_n_epochs: int | None = setting(None, "Keep only the last so many files of save_every_n_epochs.", least=1)
    save_state: bool = setting(
        False, "Keep a state beside every saved file, to resume from with --resume. It takes kilobytes."
    )
    save_state_on_train_end: bool = setting(False, "Keep the state of the last step.")
    save_last_n_steps_state: int | None = setting(None, "The same as save_last_n_steps, for states.", least=1)
    save_last_n_epochs_state: int | None = setting(None, "The same as save_last_n_epochs, for states.", least=1)
    resume: Unset = setting(None, "Go on from this state folder instead of the run's own state.")
    state_every_n_steps: int = setting(25, "Save what resuming needs every so many steps. It takes kilobytes.", least=1)
    restart: bool = setting(False, "Begin anew although there is an interrupted or finished run with the same name.")


class SampleSettings(Section):
    sample_prompts: Unset = setting(
        None, "A file of prompts (.txt, .toml, .json) to generate images from while training."
    )
    sample_every_n_steps: int | None = setting(None, "Generate them every so many steps.")
    sample_every_n_epochs: int | None = setting(
        None, "Generate them every so many epochs; it takes precedence over the steps."
    )
    sample_at_first: bool = setting(False, "Generate them before the first step too.")
    sample_sampler: Sampler = setting("ddim", "The sampler of prompts that name none.")


class MetadataSettings(Section):
    """Metadata of the file, each written as `modelspec.NAME`; .safetensors files only."""

    metadata_title: str | None = setting(None, "The title of the file (default: its name).")
    metadata_author: str | None = setting(None, "The author of the file.")
    metadata_description: str | None = setting(None, "A description of the file.")
    metadata_license: str | None = setting(None, "The licence of the file.")
    metadata_tags: str | None = setting(None, "Tags, separated by commas.")
    metadata_usage_hint: str | None = setting(None, "How to use it.")
    metadata_thumbnail: str | None = setting(
        None, "A thumbnail: an image file, which is put into the file, or a data URL."
    )
    metadata_merged_from: str | None = setting(None, "What the file was merged from.")
    metadata_trigger_phrase: str | None = setting(None, "What to write in a prompt (default: the word).")
    metadata_preprocessor: str | None = setting(None, "How the images were prepared.")
    metadata_is_negative_embedding: str | None = setting(None, "Whether the word is for negative prompts.")


class LogSettings(Section):
    logging_dir: str | None = setting(None, "The folder of TensorBoard's logs; naming one switches TensorBoard on.")
    log_with: Literal["tensorboard", "wandb", "all"] | None = setting(None, "Trackers that follow the run.")
    log_prefix: str | None = setting(None, "The beginning of the name of the run's folder within logging_dir.")
    log_tracker_name: str | None = setting(None, "The name of the project (default: textual_inversion).")
    wandb_run_name: str | None = setting(None, "The name of the run at Weights & Biases.")
    log_tracker_config: str | None = setting(None, "A TOML file with arguments for the trackers, a table for each.")
    wandb_api_key: str | None = setting(
        None, "The key for Weights & Biases; WANDB_API_KEY in the environment is safer."
    )
    console_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = setting(
        "INFO", "The lowest level of notes that are shown; the verdict always is."
    )
    console_log_file: str | None = setting(None, "Write notes and warnings to this file instead of the terminal.")
    log_config: bool = setting(False, "Log the settings too, without paths and keys.")


class HubSettings(Section):
    huggingface_repo_id: str | None = setting(None, "Upload every saved file to this repository (owner/name).")
    huggingface_repo_type: Literal["model", "dataset", "space"] = setting("model", "The kind of the repository.")
    huggingface_path_in_repo: str | None = setting(None, "The folder within the repository.")
    huggingface_token: str | None = setting(None, "A token; HF_TOKEN in the environment, or a login, is safer.")
    huggingface_repo_visibility: Literal["public", "private"] | None = setting(
        None, "The visibility of a repository that is created (default: private)."
    )
    save_state_to_huggingface: bool = setting(False, "Upload states too.")
    resume_from_huggingface: bool = setting(False, "Read --resume as a state on the hub: owner/repo/folder[:revision].")
    async_upload: bool = setting(False, "Upload in the background.")


class EvalSettings(Section):
    eval_every_n_steps: int = setting(
        0,
        "Measure the evaluation loss every so many steps; 0: at the start and end, or with early_stop what suits the "
        "model (50 "
        "for Stable Diffusion, 5 for the built-in model).",
        least=0,
    )
    early_stop: bool = setting(
        False, "End when the evaluation loss has stopped changing, and keep the vectors with the lowest loss."
    )
    early_stop_window: int = setting(5, "How many of the last evaluations must agree to end the training.", least=2)
    early_stop_threshold: float = setting(
        0.02, "The largest variance of these evaluations, as a share of that of all evaluations.", above=0
    )
    eval_samples: int = setting(
        64, "How many (image, noise, timestep) triples an evaluation has.", least=8, most=100_000
    )
    validation_split: float = setting(
        0.0, "The share of the images that is held out of training for evaluation.", least=0
    )
    validation_seed: int = setting(0, "The seed that chooses which images are held out.", least=0)


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

        Values are plain Python: `resolution=(512, 768)`, `optimizer_args=["betas=(0.9, 0.99)"]`, paths. sd-scripts'
        names are understood as on the command line. Raises ConfigError with every unknown name and every wrong value.
        """
        run, notes = parse(cls, settings, CompatSettings, SDSCRIPTS)
        run._notes = tuple(notes)
        return run
