"""Learning rates of a run: the model's default, the default warm-up, and the rate at each step."""

from __future__ import annotations

from neonym.config.learning_settings import OptimSettings
from neonym.config.values import Rate, Steps
from neonym.models.source import ModelSource
from neonym.optim.optimizers import record_of
from neonym.optim.schedules import Schedule, named_schedule

TOO_SHORT = 0.5  # share of the vocabulary's spread: a run that cannot move a number farther cannot learn
MIN_WARMUP = "30"  # steps of a default warm-up at least
MAX_WARMUP_SHARE = 0.3  # share of the run that a default warm-up takes at most, even if that is less than MIN_WARMUP


def suitable_rate(source: ModelSource, optimizer: str = "AdamW") -> float:
    """Return the default learning rate of a model; 1 for an optimizer that finds the rate itself."""
    return 1.0 if record_of(optimizer).finds_rate else float(source.defaults.learning_rate.value)


def default_warmup(total: int, model_warmup: str) -> int:
    """Return the warm-up in steps of a run of `total` steps without `--lr_warmup_steps`.

    `model_warmup` is the default of the model. Adam's first steps have full length, however unreliable their gradients
    are: at the full learning rate they move a word far away before their mean gives a direction. See Ma & Yarats 2019,
    "On the adequacy of untuned warmup for adaptive optimization".
    """
    return min(max(int(MIN_WARMUP), Steps.parse(model_warmup).of(total)), int(MAX_WARMUP_SHARE * total))


def warms_up(optim: OptimSettings) -> bool:
    """Return whether the schedule of a run has a warm-up at all."""
    is_staged = optim.learning_rate is not None and optim.learning_rate.is_staged
    return not (is_staged or optim.lr_scheduler_type or optim.schedule in ("constant", "adafactor"))


def make_schedule(optim: OptimSettings, rate: Rate, total: int, model_warmup: str = MIN_WARMUP) -> Schedule:
    """Return the learning rate at each of `total` steps: the stages of `rate`, or its number under the run's schedule.

    `model_warmup` is the default of the model. Raises ConfigError if the schedule does not accept its arguments.
    """
    if rate.is_staged:
        return rate.at
    if optim.lr_warmup_steps is not None:
        warmup = optim.lr_warmup_steps.of(total)
    else:
        warmup = default_warmup(total, model_warmup) if warms_up(optim) else 0
    return named_schedule(
        rate.first, optim.lr_scheduler, total,
        warmup=warmup, decay=optim.lr_decay_steps.of(total) if optim.lr_decay_steps else 0,
        cycles=optim.lr_scheduler_num_cycles, power=optim.lr_scheduler_power,
        timescale=optim.lr_scheduler_timescale, min_ratio=optim.lr_scheduler_min_lr_ratio,
        kind=optim.lr_scheduler_type, arguments=optim.lr_scheduler_args.values,
    )  # fmt: skip
