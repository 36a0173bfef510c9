"""The learning rate of a word at each step, and its optimizer's arguments, from the settings."""

from __future__ import annotations

from neonym.config.dataset import ConceptSpec
from neonym.config.run import OptimSettings
from neonym.config.values import parse_arguments, parse_count, schedule_name
from neonym.models.source import ModelSource
from neonym.optim.optimizers import record_of
from neonym.optim.schedules import Rate, make_rate, staged_rate

PROBE_RATE = 5e-3  # for an optimizer that is made only to see whether it can be
TOO_SHORT = 0.5  # share of the vocabulary's spread: a run that carries a number no farther cannot learn
LEAST_WARMUP, LARGEST_SHARE = "30", 0.3  # a default warm-up has that many steps, but no more than that share of the run


def suiting_rate(source: ModelSource, optimizer: str = "AdamW") -> float:
    """Return the learning rate that suits the words of a model, for AdamW and its like; 1 where the optimizer finds it."""
    return 1.0 if record_of(optimizer).finds_rate else float(source.defaults.learning_rate.value)


def default_warmup(total: int, suits: str) -> str:
    """Return how many of a run's `total` steps are warm-up where the user gives none and `suits` (steps or a share) suits the model.

    Adam's first steps have full length, whatever their gradients are worth: at a full rate they carry a word off before
    their mean shows the way. See Ma & Yarats 2019, "On the adequacy of untuned warmup for adaptive optimization".
    """
    least = int(LEAST_WARMUP)
    return str(min(max(least, parse_count(suits, total)), int(LARGEST_SHARE * total)))


def warms_up(optim: OptimSettings) -> bool:
    """Return whether the schedule has a warm-up at all."""
    plain = schedule_name(optim.lr_scheduler) not in ("constant", "adafactor") and not optim.lr_scheduler_type
    return plain and not isinstance(optim.learning_rate, str)


def arguments(optim: OptimSettings) -> dict[str, object]:
    """Return the optimizer's arguments: `--optimizer_args`, and the weight decay if it was given."""
    decay = {} if optim.weight_decay is None else {"weight_decay": optim.weight_decay}
    return {**decay, **parse_arguments(optim.optimizer_args)}


def base_rate(optim: OptimSettings, spec: ConceptSpec | None = None) -> float:
    """Return the concept's own learning rate, or else the run's; of a staged rate, the first stage."""
    if spec is not None and spec.learning_rate is not None:
        return spec.learning_rate
    if isinstance(optim.learning_rate, str):
        return staged_rate(optim.learning_rate)(0)
    return PROBE_RATE if optim.learning_rate is None else optim.learning_rate


def rate_of(optim: OptimSettings, spec: ConceptSpec | None, total: int, suits: str = LEAST_WARMUP) -> Rate:
    """Return the learning rate at each of `total` steps; `suits` is the model's default warm-up. Raises ConfigError."""
    if isinstance(optim.learning_rate, str) and (spec is None or spec.learning_rate is None):
        return staged_rate(optim.learning_rate)
    warmup = optim.lr_warmup_steps
    if warmup is None:
        warmup = default_warmup(total, suits) if warms_up(optim) else "0"
    return make_rate(
        base_rate(optim, spec), optim.lr_scheduler, total,
        warmup=parse_count(warmup, total), decay=parse_count(optim.lr_decay_steps or "0", total),
        cycles=optim.lr_scheduler_num_cycles, power=optim.lr_scheduler_power,
        timescale=optim.lr_scheduler_timescale, min_ratio=optim.lr_scheduler_min_lr_ratio,
        kind=optim.lr_scheduler_type, arguments=parse_arguments(optim.lr_scheduler_args),
    )  # fmt: skip
