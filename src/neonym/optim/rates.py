"""The learning rate at each step, from the settings of a run and the defaults of its model."""

from __future__ import annotations

from neonym.config.run import OptimSettings
from neonym.config.values import Rate, Steps
from neonym.models.source import ModelSource
from neonym.optim.optimizers import record_of
from neonym.optim.schedules import Schedule, named_schedule

TOO_SHORT = 0.5  # share of the vocabulary's spread: a run that carries a number no farther cannot learn
LEAST_WARMUP, LARGEST_SHARE = "30", 0.3  # a default warm-up has that many steps, but no more than that share of the run


def suiting_rate(source: ModelSource, optimizer: str = "AdamW") -> float:
    """Return the learning rate that suits the words of a model, for AdamW and its like; 1 where the optimizer finds
    it.
    """
    return 1.0 if record_of(optimizer).finds_rate else float(source.defaults.learning_rate.value)


def default_warmup(total: int, suits: str) -> int:
    """Return the number of warm-up steps in a run of `total` steps whose user gives none; `suits` is the model's default.

    Adam's first steps have full length, whatever their gradients are worth: at a full rate they carry a word off before
    their mean shows the way. See Ma & Yarats 2019, "On the adequacy of untuned warmup for adaptive optimization".
    """
    return min(max(int(LEAST_WARMUP), Steps.parse(suits).of(total)), int(LARGEST_SHARE * total))


def warms_up(optim: OptimSettings) -> bool:
    """Return whether the schedule has a warm-up at all."""
    is_staged = optim.learning_rate is not None and optim.learning_rate.is_staged
    return not (is_staged or optim.lr_scheduler_type or optim.schedule in ("constant", "adafactor"))


def make_schedule(optim: OptimSettings, rate: Rate, total: int, suits: str = LEAST_WARMUP) -> Schedule:
    """Return the learning rate at each of `total` steps: the stages of `rate`, or its number under the run's schedule.

    `suits` is the warm-up of the model's defaults. Raises ConfigError if the schedule does not take its arguments.
    """
    if rate.is_staged:
        return rate.at
    if optim.lr_warmup_steps is not None:
        warmup = optim.lr_warmup_steps.of(total)
    else:
        warmup = default_warmup(total, suits) if warms_up(optim) else 0
    return named_schedule(
        rate.first, optim.lr_scheduler, total,
        warmup=warmup, decay=optim.lr_decay_steps.of(total) if optim.lr_decay_steps else 0,
        cycles=optim.lr_scheduler_num_cycles, power=optim.lr_scheduler_power,
        timescale=optim.lr_scheduler_timescale, min_ratio=optim.lr_scheduler_min_lr_ratio,
        kind=optim.lr_scheduler_type, arguments=optim.lr_scheduler_args.values,
    )  # fmt: skip
