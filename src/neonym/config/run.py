"""Every setting of a training run: type, default, help and limits, in one place.

The tree is nested for the reader and flat for the user: sd-scripts' names are the flags. `None` as a default means
"found out from something else", which the help names.
"""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from neonym.errors import Problem

BUILTIN = "builtin:emoji"
OPTIMIZERS = ("AdamW", "AdamW8bit", "PagedAdamW", "PagedAdamW8bit", "PagedAdamW32bit")
Schedule = Literal["constant", "constant_with_warmup", "linear", "linear_with_warmup", "cosine", "cosine_with_warmup"]


def setting(default: Any, help: str, *, above: float | None = None, least: float | None = None) -> Any:
    """A field with its help and limits. The limits are checked by `range_problems`, all of them at once."""
    limits: Any = {name: value for name, value in (("above", above), ("least", least)) if value is not None}
    return Field(default, description=help, json_schema_extra=limits or None)


class Section(BaseModel):
    """A frozen part of the settings; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSettings(Section):
    pretrained_model_name_or_path: str = setting(BUILTIN, "The model: a Diffusers folder, or the built-in one.")
    max_token_length: Literal[75, 150, 225] = setting(75, "How many text tokens a caption may have.")
    clip_skip: int = setting(1, "Text encoder layer to use, counted from the end (1: the last).", least=1)


class ConceptSettings(Section):
    token_string: str | None = setting(None, "The new word, as it stands in captions and prompts.")
    init_word: str | None = setting(None, "Word or words whose vectors the new word starts from (default: picture).")
    num_vectors_per_token: int = setting(1, "How many vectors the word has; each takes one token of a prompt.", least=1)


class DatasetSettings(Section):
    dataset_config: str | None = setting(None, "Data-set file (TOML or JSON) as sd-scripts reads it.")
    train_data_dir: str | None = setting(None, "Folder of pictures, or of `N_name` folders, instead of a file.")
    reg_data_dir: str | None = setting(None, "Folder of `N_name` folders with regularisation pictures.")
    resolution: str | None = setting(None, 'Training size "S" or "W,H" (default: the model\'s own).')
    train_batch_size: int = setting(4, "Pictures per step and concept.", least=1)
    dataset_repeats: int = setting(1, "How often a picture counts in an epoch.", least=1)
    caption_extension: str | None = setting(None, "Ending of caption files (default: .caption, then .txt).")
    caption_separator: str = setting(",", "What stands between the tags of a caption.")
    caption_prefix: str | None = setting(None, "Text put before every caption.")
    caption_suffix: str | None = setting(None, "Text put after every caption.")
    shuffle_caption: bool = setting(False, "Shuffle the tags of a caption each time it is used.")
    keep_tokens: int = setting(0, "How many tags at the front are not shuffled.", least=0)
    flip_aug: bool = setting(False, "Mirror a picture half of the time.")
    enable_bucket: bool = setting(False, "Train pictures in buckets of their own shape instead of cutting all to one.")
    min_bucket_reso: int = setting(256, "Shortest side of a bucket.", least=8)
    max_bucket_reso: int = setting(1024, "Longest side of a bucket.", least=8)
    bucket_reso_steps: int = setting(64, "Bucket sides are multiples of this; itself a multiple of 8.", least=8)
    bucket_no_upscale: bool = setting(False, "Never enlarge a picture.")
    prior_loss_weight: float = setting(1.0, "Weight of regularisation pictures in the loss.", least=0)


class OptimSettings(Section):
    optimizer_type: str = setting(
        "AdamW", "Optimizer. The 8-bit and paged AdamW are AdamW here: the state is kilobytes."
    )
    learning_rate: float = setting(5e-3, "Learning rate of the rows.", above=0)
    lr_scheduler: Schedule = setting("cosine", "How the learning rate changes over the steps.")
    lr_warmup_steps: int = setting(10, "Steps of linear warm-up (not for `constant`).", least=0)
    max_train_steps: int = setting(100, "Length of the training in optimizer steps.", least=1)
    gradient_accumulation_steps: int = setting(
        1, "Micro-batches per step: each step uses this many times the batch size.", least=1
    )
    weight_decay: float = setting(0.0, "Weight decay: it shrinks a word whether it is learned or not.", least=0)
    max_grad_norm: float = setting(1.0, "Clip the gradient of a concept's rows to this norm; 0: do not clip.", least=0)
    seed: int = setting(0, "All random draws follow from it.", least=0)


class ComputeSettings(Section):
    mixed_precision: Literal["no", "fp16", "bf16"] = setting("no", "Precision of the frozen model's arithmetic.")
    gradient_checkpointing: bool = setting(False, "Recompute activations to save memory: half as slow again.")
    xformers: bool = setting(False, "Accepted from sd-scripts: PyTorch's own attention is used, with the same result.")
    sdpa: bool = setting(False, "PyTorch's scaled-dot-product attention: always on.")
    mem_eff_attn: bool = setting(False, "Accepted from sd-scripts: PyTorch's own attention saves memory already.")
    micro_batch_size: int | None = setting(
        None, "Most samples that go through the model together (default: the batch size). Changes memory only.", least=1
    )
    cpu: bool = setting(False, "Use the CPU even where there is a GPU.")


class CacheSettings(Section):
    cache_latents: bool = setting(False, "Accepted from sd-scripts: pictures are always encoded once, before training.")
    cache_latents_to_disk: bool = setting(False, "Keep the encoded pictures on disk for the next run.")
    latent_cache_dir: str | None = setting(None, "Where they are kept (default: `neonym` in the user's cache folder).")


class SaveSettings(Section):
    output_dir: str = setting("outputs", "Folder of the embedding file and of the run's records.")
    output_name: str | None = setting(None, "File name without ending (default: the token).")
    save_model_as: Literal["safetensors", "pt"] = setting("safetensors", "Format of the embedding file.")
    save_every_n_steps: int | None = setting(None, "Also save a file every so many steps.", least=1)
    save_last_n_steps: int | None = setting(None, "Keep only files of the last so many steps.", least=1)
    state_every_n_steps: int = setting(25, "Save what resuming needs every so many steps: kilobytes.", least=1)
    restart: bool = setting(False, "Begin anew although an interrupted run with the same name is there.")


class EvalSettings(Section):
    eval_every_n_steps: int = setting(
        0, "Measure the evaluation loss every so many steps; 0: at the start and end.", least=0
    )
    eval_samples: int = setting(64, "How many (picture, noise, timestep) triples an evaluation has.", least=8)
    validation_split: float = setting(0.0, "Share of the pictures held out of training for evaluation.", least=0)
    validation_seed: int = setting(0, "Chooses which pictures are held out.", least=0)


class RunConfig(Section):
    """All settings of one training run."""

    model: ModelSettings = ModelSettings()
    concept: ConceptSettings = ConceptSettings()
    dataset: DatasetSettings = DatasetSettings()
    optim: OptimSettings = OptimSettings()
    compute: ComputeSettings = ComputeSettings()
    cache: CacheSettings = CacheSettings()
    save: SaveSettings = SaveSettings()
    eval: EvalSettings = EvalSettings()


def fields_of(model: type[BaseModel]) -> Iterator[tuple[str, str, FieldInfo]]:
    """(section, name, field) of every flag."""
    for section, info in model.model_fields.items():
        assert isinstance(info.annotation, type)
        if issubclass(info.annotation, BaseModel):
            for name, field in info.annotation.model_fields.items():
                yield section, name, field


def range_problems(values: BaseModel) -> list[Problem]:
    """Every flag of `values` that is out of its limits."""
    problems = []
    for section, name, field in fields_of(type(values)):
        value = getattr(getattr(values, section), name)
        limits = field.json_schema_extra
        if isinstance(limits, dict) and value is not None:
            above, least = limits.get("above"), limits.get("least")
            if isinstance(above, (int, float)) and not value > above:
                problems.append(Problem("error", f"{value} is not above {above}", f"--{name}"))
            if isinstance(least, (int, float)) and not value >= least:
                problems.append(Problem("error", f"{value} is less than {least}", f"--{name}"))
    return problems


def run_problems(run: RunConfig) -> list[Problem]:
    """Everything that is wrong with the flags themselves, without looking at any file."""
    problems = range_problems(run)
    known = {name.lower(): name for name in OPTIMIZERS}
    if run.optim.optimizer_type.lower() not in known:
        problems.append(
            Problem(
                "error",
                f"`{run.optim.optimizer_type}` is not known",
                "--optimizer_type",
                f"Known: {', '.join(OPTIMIZERS)}",
            )
        )
    if run.dataset.dataset_config is None and run.dataset.train_data_dir is None:
        problems.append(
            Problem(
                "error", "no pictures named", "--dataset_config", "Give a data-set file, or --train_data_dir FOLDER"
            )
        )
    if run.dataset.resolution is not None and parse_resolution(run.dataset.resolution) is None:
        problems.append(
            Problem("error", f"`{run.dataset.resolution}` is no size", "--resolution", 'Write "512" or "512,768"')
        )
    if not 0 <= run.eval.validation_split < 1:
        problems.append(
            Problem("error", f"{run.eval.validation_split} is no share", "--validation_split", "Give 0 to below 1")
        )
    if run.dataset.bucket_reso_steps % 8:
        problems.append(
            Problem("error", f"{run.dataset.bucket_reso_steps} is not a multiple of 8", "--bucket_reso_steps")
        )
    if run.save.output_name is not None and set(run.save.output_name) & set("/\\\0"):
        problems.append(
            Problem("error", "a file name, not a path, is expected", "--output_name", "Use --output_dir for the folder")
        )
    return problems


def parse_resolution(text: str) -> tuple[int, int] | None:
    """ "512" or "512,768" -> (width, height); None if it is neither."""
    parts = text.split(",")
    if len(parts) > 2 or not all(p.strip().isdecimal() and int(p) > 0 for p in parts):
        return None
    return int(parts[0]), int(parts[-1])
