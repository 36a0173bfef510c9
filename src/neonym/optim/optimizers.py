"""Makes optimizers from their records, and records for classes that are not listed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import TYPE_CHECKING, Any

from neonym.config.optimizers import (
    OPTIMIZERS,
    OptimizerRecord,
    class_path,
    listed_optimizer,
    optimizer_problem,
    suggestion,
)
from neonym.errors import ConfigError, Problem

if TYPE_CHECKING:
    import torch
    from torch.nn import Parameter


def record_of(name: str) -> OptimizerRecord:
    """Return the record of an optimizer: the listed one, or one made by inspecting the class.

    A class that is missing gets a record without capabilities.
    """
    return listed_optimizer(name) or _record_of_class(name)


@cache
def _record_of_class(name: str) -> OptimizerRecord:
    """Return the record of a class in torch.optim or at a dotted path.

    The class of a listed optimizer has that optimizer's capabilities, but not its default arguments. For any other
    class, whose capabilities nobody has listed, they are guessed by the conventions of its kind: `eval()` means that it
    averages its steps, as schedule-free optimizers do, and a parameter `d0` that it finds its learning rate, as those of
    D-Adaptation do.
    """
    bare = OptimizerRecord(name, class_path(name))
    if optimizer_problem(name) is not None:  # do not import torch for an unknown name
        return bare
    try:
        found = optimizer_class(name)
    except ConfigError:  # `make_optimizer` reports why
        return bare
    for known in OPTIMIZERS:
        if known.package == bare.package and class_at(known.path) is found:
            return replace(known, name=name, path=bare.path, settings={}, smaller=())
    averages, finds_rate = hasattr(found, "eval"), "d0" in signature(found).parameters
    return replace(
        bare, averages=averages, own_schedule=averages, last_rate="scheduled_lr" if averages else "lr",
        finds_rate=finds_rate, found_rate="d" if finds_rate else None,
    )  # fmt: skip


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """Return the class of an optimizer, by a listed name, a name in torch.optim or a dotted path.

    Raises ConfigError if there is no such class, or if it is not an optimizer.
    """
    import torch

    problem = optimizer_problem(name)
    if problem:
        raise ConfigError([problem])
    try:
        found = class_at(class_path(name))
    except (ImportError, ValueError, AttributeError) as error:
        what = f"`{name}` cannot be found ({error})"
        raise ConfigError([Problem("error", what, "--optimizer_type", suggestion(name))]) from error
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise ConfigError([Problem("error", f"`{name}` is not an optimizer", "--optimizer_type")])
    return found


def class_at(path: str) -> Any:
    """Return the object at a dotted path. Raises ImportError, ValueError or AttributeError."""
    module, _, attribute = path.rpartition(".")
    return _member(import_module(module), attribute)


def _member(home: ModuleType, name: str) -> Any:
    """Return a member of a module. In torch's modules, names of classes match in any case. Raises AttributeError."""
    if home.__name__ not in ("torch.optim", "torch.optim.lr_scheduler"):
        return getattr(home, name)
    classes = {key.lower(): value for key, value in vars(home).items() if isinstance(value, type)}
    return classes[name.lower()] if name.lower() in classes else getattr(home, name)


def make_optimizer(
    rows: Iterable[Parameter], name: str = "AdamW", learning_rate: float = 5e-3,
    arguments: dict[str, Any] | None = None, factors: Sequence[float] = (),
) -> torch.optim.Optimizer:  # fmt: skip
    """Return an optimizer of these rows alone. `arguments` take precedence over the defaults in its record.

    With `factors`, one for each parameter, each has the learning rate times its factor (`rate_factor` of its group).
    AdamW has no weight decay by default, because it would only shrink the words.
    Raises ConfigError if the class is missing or does not accept the arguments.
    """
    rows, found, record = list(rows), optimizer_class(name), record_of(name)
    settings = {**record.settings, **(arguments or {})}
    relative = record.is_relative(settings)
    if relative:
        settings["relative_step"] = True  # `warmup_init` implies it
    rate = None if relative else learning_rate
    groups: list[Any] = rows
    if len(set(factors)) > 1 or (factors and factors[0] != 1):
        groups = [
            {"params": [own], "lr": learning_rate * factor, "rate_factor": factor}
            for own, factor in zip(groups, factors, strict=True)
        ]
    if any(own.is_cuda for own in rows) and "capturable" in signature(found).parameters:
        settings.setdefault("capturable", True)  # its count of steps is on the device, too
    try:
        optimizer = found(groups, lr=rate, **settings)  # pyright: ignore[reportCallIssue, reportArgumentType]
    except Exception as error:  # a class may raise any exception
        what = f"{found.__name__} does not accept these arguments: {error}"
        raise ConfigError([Problem("error", what, "--optimizer_args")]) from error
    if record.averages:
        optimizer.train()  # pyright: ignore[reportAttributeAccessIssue]
    return optimizer


def rate_now(optimizer: torch.optim.Optimizer, record: OptimizerRecord) -> float:
    """Return the learning rate of the last step, also of an optimizer that has a schedule of its own; 0 before it."""
    group: dict[str, Any] = optimizer.param_groups[0]
    if group["lr"] is not None:  # before its first step, a schedule-free optimizer has no other rate
        return float(group.get(record.last_rate) or group["lr"])
    state = optimizer.state[group["params"][0]]
    if record.rate_method is None or not state:
        return 0.0
    return float(getattr(optimizer, record.rate_method)(group, state))


def found_rate(optimizer: torch.optim.Optimizer, record: OptimizerRecord) -> float | None:
    """Return the learning rate that an optimizer found, times the user's factor; None if it does not find one."""
    group: dict[str, Any] = optimizer.param_groups[0]
    found = group.get(record.found_rate) if record.found_rate else None  # a class that is not listed may lack it
    return None if found is None else float(found) * float(group["lr"])


def longest_step(record: OptimizerRecord, arguments: Mapping[str, Any], max_grad_norm: float, width: int) -> float:
    """Return the longest step of one number of a vector, in learning rates; infinity if nothing bounds it.

    For optimizers like Adam it is about 1, whatever the clipped gradient is. Steps of SGD are as long as the clipped
    gradient, and momentum adds them up: their bound is the root mean square over the `width` numbers of a vector.
    """
    if record.is_relative(arguments):
        return math.inf
    if record.longest_step == "rate":
        return 1.0
    if record.longest_step is None or max_grad_norm <= 0:
        return math.inf
    given = {**record.settings, **arguments}
    momentum = float(given.get("momentum", 0)) if record.longest_step == "momentum" else 0.0
    return max_grad_norm / (1 - momentum) / math.sqrt(width) if momentum < 1 else math.inf
