"""Learning-rate schedules under sd-scripts' names. Each is a function of the step, so it has no state to resume."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from neonym.config.values import schedule_name
from neonym.errors import ConfigError, Problem
from neonym.optim.optimizers import class_at

if TYPE_CHECKING:
    import torch

Schedule = Callable[[int], float]  # step -> learning rate
PLAIN = ("constant", "adafactor", "constant_with_warmup", "linear", "cosine")
SAMPLED = 10_000  # steps: `reach` samples the rates of a longer run


def plain_factor(name: str, step: int, steps: int, warmup: int) -> float:
    """Return the factor of the learning rate at `step`, counted from 0, of one of the schedules in `PLAIN`.

    The schedule "adafactor" is constant: with relative steps, AdaFactor finds its own rate.
    """
    if name in ("constant", "adafactor"):
        return 1.0
    if step < warmup:
        return step / warmup
    left = max(1, steps - warmup)
    if name == "linear":
        return max(0.0, (steps - step) / left)
    if name == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((step - warmup) / left))))
    return 1.0


def named_schedule(
    learning_rate: float,
    name: str,
    steps: int,
    *,
    warmup: int = 0,
    decay: int = 0,
    cycles: int = 1,
    power: float = 1.0,
    timescale: int | None = None,
    min_ratio: float | None = None,
    kind: str = "",
    arguments: dict[str, Any] | None = None,
) -> Schedule:
    """Return the learning rate at each step, by a schedule of diffusers or transformers, or by the torch class `kind`.

    The simplest schedules are computed here (`plain_factor`), because importing those packages takes seconds.
    For the others, the rate comes from the scheduler's own function of the step or, if it has none, from a table that
    is filled by stepping through the schedule once. Raises ConfigError if the schedule does not accept its settings.
    """
    name = schedule_name(name)
    if not kind and name in PLAIN:
        return lambda step: learning_rate * plain_factor(name, step, steps, warmup)
    import torch
    from torch.nn import Parameter

    probe = torch.optim.SGD([Parameter(torch.zeros(1))], lr=learning_rate)
    table: list[float] = []
    try:
        scheduler = library_scheduler(
            probe, name, steps, warmup=warmup, decay=decay, cycles=cycles, power=power, timescale=timescale,
            min_ratio=min_ratio, kind=kind, arguments=arguments or {},
        )  # fmt: skip
        factors = getattr(scheduler, "lr_lambdas", None)
        if factors:
            for step in (0, warmup, steps - 1):
                float(factors[0](step))
            return lambda step: learning_rate * factors[0](step)
        for _ in range(steps):
            table.append(probe.param_groups[0]["lr"])
            probe.step()
            scheduler.step()
    except ConfigError:
        raise
    except Exception as error:  # a class may raise any exception
        what = f"{kind or name} does not work with these settings: {error}"
        raise ConfigError([Problem("error", what, "--lr_scheduler_args" if kind else "--lr_scheduler")]) from error
    return lambda step: table[min(step, steps - 1)]


def library_scheduler(
    probe: torch.optim.Optimizer, name: str, steps: int, *, warmup: int, decay: int, cycles: int, power: float,
    timescale: int | None, min_ratio: float | None, kind: str, arguments: dict[str, Any],
) -> Any:  # fmt: skip
    """Return a scheduler of transformers, diffusers or torch for the optimizer `probe`. Raises ConfigError."""
    if kind:
        return scheduler_class(kind)(probe, **arguments)
    from diffusers.optimization import get_piecewise_constant_schedule
    from transformers import optimization as t

    common = {"num_warmup_steps": warmup, "num_training_steps": steps}
    if name == "cosine_with_restarts":
        return t.get_cosine_with_hard_restarts_schedule_with_warmup(probe, **common, num_cycles=cycles)
    if name == "polynomial":
        return t.get_polynomial_decay_schedule_with_warmup(probe, **common, power=power)
    if name == "piecewise_constant":
        return get_piecewise_constant_schedule(probe, **arguments)
    if name == "inverse_sqrt":
        return t.get_inverse_sqrt_schedule(probe, warmup, timescale)
    if name == "cosine_with_min_lr":
        return t.get_cosine_with_min_lr_schedule_with_warmup(
            probe, **common, num_cycles=cycles / 2, min_lr_rate=min_ratio
        )
    if name == "warmup_stable_decay":
        return t.get_wsd_schedule(
            probe, warmup, decay, num_stable_steps=max(0, steps - warmup - decay),
            min_lr_ratio=min_ratio or 0.0, num_cycles=cycles / 2,
        )  # fmt: skip
    raise ValueError(f"there is no schedule {name!r}")


def scheduler_class(name: str) -> Any:
    """Return a class of torch.optim.lr_scheduler, or the class at a dotted path. Raises ConfigError."""
    try:
        return class_at(name if "." in name else f"torch.optim.lr_scheduler.{name}")
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigError([Problem("error", f"`{name}` is not known", "--lr_scheduler_type")]) from error


def reach(schedule: Schedule, first: int, last: int) -> float:
    """Return how far steps `first` to `last` - 1 can move a number at most, if each moves it by its learning rate."""
    stride = max(1, (last - first) // SAMPLED)
    return stride * sum(schedule(step) for step in range(first, last, stride))
