"""Rules for settings that depend neither on files nor on the model: limits, contradictions, settings without effect."""

import math
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from neonym.config.learning_settings import LONGEST, ObjectiveSettings, OptimSettings
from neonym.config.optimizers import listed_optimizer, optimizer_problem
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from neonym.config.values import SCHEDULES, Steps, as_written
from neonym.config.without_effect import SETTINGS, no_effect_warnings, tracker_kinds
from neonym.errors import Problem, nearest
from neonym.extras import install_command, is_installed


def range_problems(values: BaseModel) -> Iterator[Problem]:
    """Yield an error for each flag of `values` that is out of its limits."""
    for section, name, field in fields_of(type(values)):
        yield from limit_problems(name, field, getattr(getattr(values, section), name))


def limit_problems(name: str, field: FieldInfo, value: Any) -> Iterator[Problem]:
    """Yield an error if the value of one flag is out of its limits, or is not a finite number."""
    limits, value = field.json_schema_extra, as_written(value)
    if isinstance(value, float) and not math.isfinite(value):
        yield Problem("error", f"{value} is not a finite number", f"--{name}")
    elif isinstance(limits, dict) and isinstance(value, (int, float)):
        above, least, most = (limits.get(kind) for kind in ("above", "least", "most"))
        if isinstance(above, (int, float)) and not value > above:
            yield Problem("error", f"{value} is not above {above}", f"--{name}")
        if isinstance(least, (int, float)) and not value >= least:
            yield Problem("error", f"{value} is less than {least}", f"--{name}")
        if isinstance(most, (int, float)) and not value <= most:
            yield Problem("error", f"{value} is more than {most}", f"--{name}")


def run_problems(run: RunConfig) -> list[Problem]:
    """Return everything that is wrong with the flags of a run.

    A flag with an error is not also reported as having no effect.
    """
    wrong = [
        *range_problems(run),
        *data_problems(run),
        *learning_problems(run.optim),
        *contradictions(run),
        *hub_problems(run),
    ]
    reported = {problem.where for problem in wrong}
    return [*wrong, *(problem for problem in no_effect_warnings(run) if problem.where not in reported)]


NO_IMAGES = "there are no images to train on"
NAMED = (  # files and folders: an empty text is an error
    "pretrained_model_name_or_path", "dataset_config", "train_data_dir", "reg_data_dir", "in_json", "template_file",
    "caption_extension", "weights", "output_dir", "logging_dir", "log_tracker_config", "console_log_file",
)  # fmt: skip


def data_problems(run: RunConfig) -> Iterator[Problem]:
    """Yield an error for each wrong setting of the images, the files and the folders."""
    data, save = run.dataset, run.save
    if data.dataset_config is None and data.train_data_dir is None and data.in_json is None:
        fix = "Pass a dataset file, or a folder with --train_data_dir"
        yield Problem("error", NO_IMAGES, "--dataset_config", fix)
    for name in NAMED:
        if getattr(getattr(run, SETTINGS[name][0]), name) == "":
            yield Problem("error", "is empty", f"--{name}", "Name a file or folder, or leave the flag out")
    templates = [n for n in ("use_object_template", "use_style_template", "template_file") if getattr(data, n)]
    if len(templates) > 1:
        where = ", ".join(f"--{n}" for n in templates)
        yield Problem("error", "only one kind of template can be used", where, "Leave the others out")
    if not 0 <= run.eval.validation_split < 1:
        yield Problem(
            "error",
            f"{run.eval.validation_split} is not a valid share",
            "--validation_split",
            "Use a number from 0 to below 1",
        )
    if data.bucket_reso_steps > 8 and data.bucket_reso_steps % 8:
        yield Problem("error", f"{data.bucket_reso_steps} is not a multiple of 8", "--bucket_reso_steps")
    if save.output_name is not None and set(save.output_name) & set("/\\\0"):
        fix = "Set the folder with --output_dir"
        yield Problem("error", "must be a file name, not a path", "--output_name", fix)


def learning_problems(optim: OptimSettings) -> Iterator[Problem]:
    """Yield what is wrong with the settings of the optimizer, the learning rate and the schedule."""
    if optim.schedule not in SCHEDULES and not optim.lr_scheduler_type:
        fix = nearest(optim.lr_scheduler.lower(), SCHEDULES) or f"Known: {', '.join(SCHEDULES)}"
        yield Problem("error", f"`{optim.lr_scheduler}` is not known", "--lr_scheduler", fix)
    yield from schedule_problems(optim)
    yield from unread_options(optim)
    yield from rate_conflicts(optim)
    problem = optimizer_problem(optim.optimizer_type)
    if problem:
        yield problem


def schedule_problems(optim: OptimSettings) -> Iterator[Problem]:
    """Yield an error for each setting that the schedule lacks or excludes."""
    where = "--lr_scheduler"
    if optim.lr_scheduler_type.rpartition(".")[2] == "ReduceLROnPlateau":
        what = "ReduceLROnPlateau depends on the losses, so that a run could not be resumed exactly"
        yield Problem("error", what, "--lr_scheduler_type", "Use --early_stop, or another schedule")
    if optim.schedule == "cosine_with_min_lr" and optim.lr_scheduler_min_lr_ratio is None:
        what = "cosine_with_min_lr needs a lowest rate"
        yield Problem(
            "error", what, where, "Set it as a share of the learning rate, such as --lr_scheduler_min_lr_ratio=0.1"
        )
    if optim.schedule == "piecewise_constant" and "step_rules" not in optim.lr_scheduler_args.values:
        fix = "Write name=value, with the value as in Python: \"step_rules='1:10,0.1:20,0.01'\""
        yield Problem("error", "piecewise_constant needs step_rules", "--lr_scheduler_args", fix)
    optimizer = listed_optimizer(optim.optimizer_type)
    if optim.schedule == "adafactor" and not (optimizer and optimizer.relative_steps):
        yield Problem("error", "the schedule adafactor belongs to the optimizer AdaFactor", where, "Choose another one")
    if is_above_zero(optim.lr_warmup_steps) and (optim.schedule == "constant" or optim.lr_scheduler_type):
        fix = "Use --lr_scheduler=constant_with_warmup"
        yield Problem("error", "this schedule has no warm-up", "--lr_warmup_steps", fix)


def unread_options(optim: OptimSettings) -> Iterator[Problem]:
    """Yield a warning for each given option that the schedule does not use."""
    for option, readers in READERS.items():
        of_class = option == "lr_scheduler_args" and optim.lr_scheduler_type
        if option not in optim.model_fields_set or of_class:
            continue
        value, default = getattr(optim, option), type(optim).model_fields[option].default
        is_given = is_above_zero(value) if option == "lr_decay_steps" else value != default
        if is_given and (optim.schedule not in readers or optim.lr_scheduler_type):
            schedule = optim.lr_scheduler_type or optim.lr_scheduler
            yield Problem("warning", f"has no effect on the schedule {schedule}", f"--{option}")


def rate_conflicts(optim: OptimSettings) -> Iterator[Problem]:
    """Yield a problem if another setting replaces or contradicts the given learning rate."""
    if optim.learning_rate is None:
        return
    if has_relative_steps(optim):
        what = "is not used: with relative steps, AdaFactor finds its own rate"
        yield Problem("warning", what, "--learning_rate", "To use it, add --optimizer_args relative_step=False")
    if optim.learning_rate.is_staged and {"lr_scheduler", "lr_scheduler_type"} & optim.model_fields_set:
        fix = "Leave --lr_scheduler out"
        yield Problem("error", "a staged learning rate is a schedule of its own", "--learning_rate", fix)


def has_relative_steps(optim: OptimSettings) -> bool:
    """Return whether the optimizer finds its own rate, as AdaFactor does unless `relative_step=False` is given."""
    record = listed_optimizer(optim.optimizer_type)
    return record is not None and record.is_relative(optim.optimizer_args.values)


def is_above_zero(steps: Steps | None) -> bool:
    """Return whether a number or share of steps is given and above 0."""
    return steps is not None and steps.of(LONGEST) > 0


READERS = {  # option -> the schedules that use it
    "lr_decay_steps": ("warmup_stable_decay",),
    "lr_scheduler_power": ("polynomial",),
    "lr_scheduler_timescale": ("inverse_sqrt",),
    "lr_scheduler_min_lr_ratio": ("cosine_with_min_lr", "warmup_stable_decay"),
    "lr_scheduler_num_cycles": ("cosine_with_restarts", "cosine_with_min_lr", "warmup_stable_decay"),
    "lr_scheduler_args": ("piecewise_constant",),
}


def objective_problems(objective: ObjectiveSettings, predicts_v: bool) -> Iterator[Problem]:
    """Yield a problem for each setting of the loss that does not suit what the model predicts: v or noise."""
    if objective.scale_v_pred_loss_like_noise_pred and not predicts_v:
        yield Problem(
            "error", "is only for models that predict v", "--scale_v_pred_loss_like_noise_pred", "Leave it out"
        )
    if objective.v_pred_like_loss and predicts_v:
        yield Problem("error", "is only for models that predict noise", "--v_pred_like_loss", "Leave it out")
    if objective.zero_terminal_snr and not predicts_v:
        what = "a model that predicts noise learns nothing at the last step, which has no signal"
        yield Problem("warning", what, "--zero_terminal_snr", "Use it only with models that predict v")


REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


def hub_problems(run: RunConfig) -> Iterator[Problem]:
    """Yield an error for a wrong name of a repository, or of a state on the Hugging Face hub."""
    name = run.hub.huggingface_repo_id
    if name is not None and not (REPOSITORY.fullmatch(name) and ".." not in name and len(name) <= 96):
        yield Problem("error", f"`{name}` is not a valid repository name", "--huggingface_repo_id", "Write owner/name")
    place = run.save.resume
    if place is not None and run.hub.resume_from_huggingface and place.partition(":")[0].count("/") < 1:
        yield Problem(
            "error", f"`{place}` is not a folder on the hub", "--resume", "Write owner/repo/folder[:revision]"
        )


def contradictions(run: RunConfig) -> Iterator[Problem]:
    """Yield a problem for each pair of settings that exclude or require each other."""
    o, optim, save = run.objective, run.optim, run.save
    low, high = o.min_timestep or 0, 1000 if o.max_timestep is None else o.max_timestep
    rows: list[tuple[bool, str, str, str]] = [
        (o.adaptive_noise_scale is not None and o.noise_offset is None, "needs a --noise_offset above 0",
         "adaptive_noise_scale", "Add one, such as --noise_offset=0.05"),
        (low >= high, f"the lowest timestep ({low}) is not below --max_timestep ({high})", "min_timestep", ""),
        (high > 1000, f"{high} is above 1000, the number of timesteps", "max_timestep", ""),
        (optim.ema_decay is not None and optim.ema_decay >= 1, f"{optim.ema_decay} is not below 1", "ema_decay", ""),
        (optim.initial_step is not None and optim.initial_epoch is not None, "cannot be combined with --initial_step",
         "initial_epoch", "Use only one of them"),
        (save.resume is not None and (optim.initial_step or optim.initial_epoch) is not None,
         "contradicts --initial_step and --initial_epoch, because the state has a step of its own", "resume",
         "Use only one of them"),
        (run.hub.resume_from_huggingface and save.resume is None, "needs --resume", "resume_from_huggingface",
         "Add --resume=owner/repo/folder"),
        (save.resume is not None and save.restart, "contradicts --resume", "restart", "Use only one of them"),
        (bool(run.compute.blocks_to_swap) and run.compute.torch_compile,
         "cannot be combined with --torch_compile, whose code has the addresses of weights in it", "blocks_to_swap",
         "Use only one of them"),
        (run.model.v2 and run.model.sdxl, "contradicts --sdxl, which sdxl_train_textual_inversion.py adds", "v2",
         "Leave it out: Neonym recognises the model by itself"),
    ]  # fmt: skip
    for wrong, what, name, fix in rows:
        if wrong:
            yield Problem("error", what, f"--{name}", fix)
    if run.log.log_with in ("tensorboard", "all") and run.log.logging_dir is None:
        yield Problem("error", "needs --logging_dir", f"--log_with={run.log.log_with}", "Name a folder for the logs")
    for kind in tracker_kinds(run.log):
        if not is_installed(kind):
            yield Problem("error", f"the package `{kind}` is not installed", "--log_with", install_command(kind))
    for name in ("sample_every_n_steps", "sample_every_n_epochs"):
        value = getattr(run.sample, name)
        if value is not None and value <= 0:
            yield Problem("warning", f"{value} is not above 0, so it does not generate any images", f"--{name}")
