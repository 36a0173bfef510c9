"""Optimizer and schedules. A schedule is a function of the step: resuming needs nothing of it."""

import math
from collections.abc import Iterable

import torch
from torch.nn import Parameter


def make_optimizer(rows: Iterable[Parameter], learning_rate: float, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), by default without weight decay, which would only shrink the words."""
    return torch.optim.AdamW(list(rows), lr=learning_rate, weight_decay=weight_decay)


def schedule(name: str, step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate at `step` (0-based) of `steps`. The first step is never zero."""
    if name != "constant" and step < warmup:
        return (step + 1) / warmup
    name = name.removesuffix("_with_warmup")
    if name == "constant":
        return 1.0
    share = (step - warmup) / max(1, steps - warmup)  # 0 at the end of the warm-up, 1 at the end
    if name == "linear":
        return max(0.0, 1.0 - share)
    if name == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * share)))
    raise ValueError(f"no schedule {name!r}")


def reach(name: str, steps: int, warmup: int, learning_rate: float) -> float:
    """The farthest that Adam can carry a coordinate: the sum of all learning rates."""
    return learning_rate * sum(schedule(name, step, steps, warmup) for step in range(steps))
