"""Settings of what a run writes: its files, sample images, metadata, trackers and uploads."""

from typing import Literal

from neonym.config.schema import Section, Unset, setting

Sampler = Literal[
    "ddim", "pndm", "lms", "euler", "euler_a", "heun", "dpm_2", "dpm_2_a", "dpmsolver", "dpmsolver++", "dpmsingle",
    "k_lms", "k_euler", "k_euler_a", "k_dpm_2", "k_dpm_2_a",
]  # fmt: skip


class SaveSettings(Section):
    """The settings of the files that a run writes, and of resuming."""

    output_dir: str = setting("outputs", "The folder of the embedding file and of the run's records.")
    output_name: str | None = setting(None, "The name of the embedding file without its extension (default: the word).")
    save_model_as: Literal["safetensors", "pt", "ckpt", "bin", "png"] = setting(
        "safetensors", "The format of the embedding file; every program reads .safetensors."
    )
    save_precision: Literal["float", "fp16", "bf16"] = setting(
        "float", "The precision of the numbers in the file; float is exact."
    )
    save_every_n_steps: int | None = setting(
        None,
        "Also save a file every N steps (default for Stable Diffusion: every 100 steps, in `steps` in the run folder, "
        "unless files are saved by epoch).",
        least=1,
    )
    save_every_n_epochs: int | None = setting(None, "Also save a file every N epochs.", least=1)
    save_n_epoch_ratio: int | None = setting(
        None, "Save about N files, evenly over the epochs; it takes precedence over save_every_n_epochs.", least=0
    )
    save_last_n_steps: int | None = setting(None, "Keep only the files of the last N steps.", least=1)
    save_last_n_epochs: int | None = setting(None, "Keep only the last N files of save_every_n_epochs.", least=1)
    save_state: bool = setting(
        False, "Keep a state next to every saved file, from which --resume can continue. It takes kilobytes."
    )
    save_state_on_train_end: bool = setting(False, "Keep the state of the last step.")
    save_last_n_steps_state: int | None = setting(None, "The same as save_last_n_steps, for states.", least=1)
    save_last_n_epochs_state: int | None = setting(None, "The same as save_last_n_epochs, for states.", least=1)
    resume: Unset = setting(None, "Resume from this state folder instead of the run's own state.")
    state_every_n_steps: int = setting(
        25, "Save the state that resuming needs every N steps. It takes kilobytes.", least=1
    )
    restart: bool = setting(False, "Start over even if there is an interrupted or finished run with the same name.")


class SampleSettings(Section):
    """The settings of the images that are generated while training."""

    sample_prompts: Unset = setting(
        None, "A file of prompts (.txt, .toml, .json) to generate images from while training."
    )
    sample_every_n_steps: int | None = setting(None, "Generate sample images every N steps.")
    sample_every_n_epochs: int | None = setting(
        None, "Generate sample images every N epochs; it takes precedence over sample_every_n_steps."
    )
    sample_at_first: bool = setting(False, "Also generate sample images before the first step.")
    sample_sampler: Sampler = setting("ddim", "The sampler for prompts that do not name one.")


class MetadataSettings(Section):
    """The metadata of the embedding file, each written as `modelspec.NAME`, in .safetensors files only."""

    metadata_title: str | None = setting(None, "The title of the file (default: its name).")
    metadata_author: str | None = setting(None, "The author of the file.")
    metadata_description: str | None = setting(None, "A description of the file.")
    metadata_license: str | None = setting(None, "The licence of the file.")
    metadata_tags: str | None = setting(None, "Tags, separated by commas.")
    metadata_usage_hint: str | None = setting(None, "How to use the word.")
    metadata_thumbnail: str | None = setting(
        None, "A thumbnail: an image file, which is put into the file, or a data URL."
    )
    metadata_merged_from: str | None = setting(None, "What the file was merged from.")
    metadata_trigger_phrase: str | None = setting(None, "What to write in a prompt (default: the word).")
    metadata_preprocessor: str | None = setting(None, "How the images were prepared.")
    metadata_is_negative_embedding: str | None = setting(None, "Whether the word is for negative prompts.")


class LogSettings(Section):
    """The settings of trackers and of messages on the terminal."""

    logging_dir: str | None = setting(None, "The folder for TensorBoard's logs; setting it switches TensorBoard on.")
    log_with: Literal["tensorboard", "wandb", "all"] | None = setting(None, "The trackers to which the run is logged.")
    log_prefix: str | None = setting(None, "The beginning of the name of the run's folder within logging_dir.")
    log_tracker_name: str | None = setting(None, "The name of the project (default: textual_inversion).")
    wandb_run_name: str | None = setting(None, "The name of the run on Weights & Biases.")
    log_tracker_config: str | None = setting(None, "A TOML file with arguments for the trackers, a table for each.")
    wandb_api_key: str | None = setting(
        None, "The key for Weights & Biases; WANDB_API_KEY in the environment is safer."
    )
    console_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = setting(
        "INFO", "The lowest level of messages to show; the verdict is always shown."
    )
    console_log_file: str | None = setting(None, "Write notes and warnings to this file instead of to the terminal.")
    log_config: bool = setting(False, "Also log the settings, without paths and keys.")


class HubSettings(Section):
    """The settings of uploads to the Hugging Face hub."""

    huggingface_repo_id: str | None = setting(None, "Upload every saved file to this repository (owner/name).")
    huggingface_repo_type: Literal["model", "dataset", "space"] = setting("model", "The kind of the repository.")
    huggingface_path_in_repo: str | None = setting(None, "The folder within the repository.")
    huggingface_token: str | None = setting(
        None, "A token for the hub; HF_TOKEN in the environment, or a login, is safer."
    )
    huggingface_repo_visibility: Literal["public", "private"] | None = setting(
        None, "The visibility of a repository that is created (default: private)."
    )
    save_state_to_huggingface: bool = setting(False, "Also upload states.")
    resume_from_huggingface: bool = setting(False, "Read --resume as a state on the hub: owner/repo/folder[:revision].")
    async_upload: bool = setting(False, "Upload in the background.")
