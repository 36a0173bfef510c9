"""Optimizers and schedules by sd-scripts' names. A schedule is a function of the step: resuming needs nothing of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from neonym.config.optimizers import class_path, optimizer_problem, suggestion
from neonym.config.values import schedule_name
from neonym.errors import ConfigError, Problem

if TYPE_CHECKING:
    import torch
    from torch.nn import Parameter

Rate = Callable[[int], float]  # step -> learning rate


def optimizer_class(name: str) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """A listed name, one of torch.optim, or a dotted path. -> (class, settings). Raises ConfigError."""
    import torch

    problem = optimizer_problem(name)
    if problem:
        raise ConfigError([problem])
    path, settings = class_path(name)
    module, _, attribute = path.rpartition(".")
    try:
        home = import_module(module)
        found = _member(home, attribute)
    except (ImportError, ValueError, AttributeError) as error:
        what = f"`{name}` cannot be found ({error})"
        raise ConfigError([Problem("error", what, "--optimizer_type", suggestion(name))]) from error
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise ConfigError([Problem("error", f"`{name}` is not an optimizer", "--optimizer_type")])
    return found, settings


def _member(home: ModuleType, name: str) -> Any:
    """A class of a module; of torch's, in any case. Raises AttributeError."""
    if home.__name__ not in ("torch.optim", "torch.optim.lr_scheduler"):
        return getattr(home, name)
    kinds = {key.lower(): value for key, value in vars(home).items() if isinstance(value, type)}
    return kinds[name.lower()] if name.lower() in kinds else getattr(home, name)


def make_optimizer(
    rows: Iterable[Parameter], name: str = "AdamW", learning_rate: float = 5e-3, arguments: dict[str, Any] | None = None
) -> torch.optim.Optimizer:
    """An optimizer of these rows alone. AdamW has no weight decay by default: it would only shrink the words.

    Raises ConfigError if the class is not there or does not take the arguments.
    """
    kind, settings = optimizer_class(name)
    settings = {**settings, **(arguments or {})}
    if kind.__module__.startswith("transformers.") and settings.get("warmup_init"):  # AdaFactor's
        settings["relative_step"] = True
    rate = None if settings.get("relative_step") else learning_rate
    try:
        optimizer = kind(list(rows), lr=rate, **settings)  # pyright: ignore[reportCallIssue, reportArgumentType]
    except Exception as error:  # each class has errors of its own
        what = f"{kind.__name__} does not take these arguments: {error}"
        raise ConfigError([Problem("error", what, "--optimizer_args")]) from error
    if hasattr(optimizer, "train"):  # schedule-free optimizers must be told
        optimizer.train()  # pyright: ignore[reportAttributeAccessIssue]
    return optimizer


def finds_rate(name: str) -> bool:
    """Whether it finds the learning rate itself, D-Adaptation and Prodigy: the one given is a factor near 1."""
    return name.lower().startswith(("dadapt", "prodigy"))


def waits(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it cannot step at a rate of 0, with which a warm-up begins: DAdaptSGD would divide by it."""
    return type(optimizer).__name__ == "DAdaptSGD" and optimizer.param_groups[0]["lr"] == 0


def averages(name: str) -> bool:
    """Whether it answers with an average of its steps: the schedule-free ones. Raises ConfigError."""
    return not class_path(name)[0].startswith("torch.") and hasattr(optimizer_class(name)[0], "eval")


def rate_now(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate of its last step, also where it finds it itself: AdaFactor's is relative to the word's size."""
    group: dict[str, Any] = optimizer.param_groups[0]
    if group["lr"] is not None:
        return float(group.get("scheduled_lr") or group["lr"])
    state = optimizer.state[group["params"][0]]
    return float(optimizer._get_lr(group, state)) if state else 0.0  # pyright: ignore[reportAttributeAccessIssue]


def sets_own_rate(name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a schedule would disturb it: AdaFactor with relative steps, schedule-free optimizers. Raises ConfigError."""
    path, settings = class_path(name)
    given = {**settings, **arguments}
    relative = path.startswith("transformers.") and bool(given.get("relative_step", True) or given.get("warmup_init"))
    return relative or averages(name)


PLAIN = ("constant", "adafactor", "constant_with_warmup", "linear", "cosine")


def plain_factor(name: str, step: int, steps: int, warmup: int) -> float:
    """What the learning rate is multiplied with at `step`. AdaFactor's own schedule is constant without relative steps."""
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


def make_rate(
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
) -> Rate:
    """The learning rate at each step, by diffusers' and transformers' schedules, or a class of torch's (`kind`).

    The plainest are written out (`plain_factor`): those packages take seconds to import, also for `neonym check`. A schedule
    is asked for its factor, or played through once: both are functions of the step alone.
    Raises ConfigError.
    """
    name = schedule_name(name)
    if not kind and name in PLAIN:
        return lambda step: learning_rate * plain_factor(name, step, steps, warmup)
    import torch
    from torch.nn import Parameter

    probe = torch.optim.SGD([Parameter(torch.zeros(1))], lr=learning_rate)
    table: list[float] = []
    try:
        scheduler = make_scheduler(
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
    except Exception as error:  # each class has errors of its own
        what = f"{kind or name} does not work with these settings: {error}"
        raise ConfigError([Problem("error", what, "--lr_scheduler_args" if kind else "--lr_scheduler")]) from error
    return lambda step: table[min(step, steps - 1)]


def make_scheduler(
    probe: torch.optim.Optimizer, name: str, steps: int, *, warmup: int, decay: int, cycles: int, power: float,
    timescale: int | None, min_ratio: float | None, kind: str, arguments: dict[str, Any],
) -> Any:  # fmt: skip
    """The library's scheduler over `probe`. Raises ConfigError."""
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
    raise ValueError(f"no schedule {name!r}")


def scheduler_class(name: str) -> Any:
    """A class of torch.optim.lr_scheduler, or by dotted path. Raises ConfigError."""
    module, _, attribute = (name if "." in name else f"torch.optim.lr_scheduler.{name}").rpartition(".")
    try:
        return _member(import_module(module), attribute)
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigError([Problem("error", f"`{name}` is not known", "--lr_scheduler_type")]) from error


BOUNDED = ("adam", "adamw", "nadam", "radam", "adamax", "lion", "adamwschedulefree", "radamschedulefree")
CLIPPED = ("sgd", "sgdschedulefree")
SAMPLED = 10_000  # steps at most: the rates of a long run are looked at here and there


def longest_step(name: str, arguments: Mapping[str, Any], max_grad_norm: float, width: int) -> float:
    """How far a step moves a number of a word at most, in learning rates; infinity if nothing bounds it.

    For the family of Adam about 1, however large its gradient is. For SGD the root mean square over the `width` numbers of a
    vector: its steps are as long as gradients, which are clipped, and as many more as momentum adds up.
    """
    path, settings = class_path(name)
    kind, given = path.rpartition(".")[2].lower(), {**settings, **arguments}
    relative = bool(given.get("relative_step", True) or given.get("warmup_init"))
    if kind in BOUNDED or (kind == "adafactor" and not relative):
        return 1.0
    if kind in CLIPPED and max_grad_norm > 0:
        momentum = float(given.get("momentum", 0)) if kind == "sgd" else 0.0  # else it only weighs an average
        return max_grad_norm / (1 - momentum) / math.sqrt(width) if momentum < 1 else math.inf
    return math.inf


def reach(rate: Rate, first: int, last: int) -> float:
    """The farthest that steps `first` to `last` - 1 can carry a number, if each moves it by its learning rate at most."""
    stride = max(1, (last - first) // SAMPLED)
    return stride * sum(rate(step) for step in range(first, last, stride))
