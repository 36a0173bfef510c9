"""The learned rows: the only numbers that training changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from neonym.models.encoders.rows import Rows, exact
from neonym.models.model import Model
from neonym.optim.optimizers import waits
from neonym.text.words import clean

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class Concept:
    """One new word while it is learned: its rows, float32 whatever the precision of the model, and their optimizer."""

    token: str
    init_word: str
    seed: int
    rows: dict[str, Rows]  # {encoder: [n,W]}
    start: dict[str, torch.Tensor]  # the rows as they were at first
    optimizer: torch.optim.Optimizer
    learning_rate: Callable[[int], float] | None  # step -> learning rate; None: the optimizer has its own
    max_grad_norm: float
    ema_decay: float | None = None
    average: dict[str, torch.Tensor] | None = None  # the rows' moving average, if one is kept
    chosen: dict[str, torch.Tensor] | None = None  # rows that were better than the last ones
    skipped: list[int] = field(default_factory=list)  # the last steps in a row whose gradient was not finite
    still: int | None = 0  # steps until now, all of which had no gradient at all; None: one had

    def __post_init__(self) -> None:
        if self.ema_decay is not None:
            self.average = {name: values.clone() for name, values in self.start.items()}

    def sum_gradients(self, accelerator: Accelerator) -> None:
        """Over ranks: a few rows, so one small reduction and no wrapper round the model."""
        for rows in self.rows.values():
            if not rows.requires_grad:
                continue
            total = rows.gradients
            if total is None:
                total = torch.zeros_like(rows, dtype=exact(rows.device))
            if accelerator.num_processes > 1:
                total = accelerator.reduce(total, "sum")
            rows.grad = total.float()  # pyright: ignore[reportAttributeAccessIssue]

    def forget_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        for rows in self.rows.values():
            rows.gradients = None

    def update(self, step: int, scaler: torch.amp.GradScaler | None) -> None:  # pyright: ignore
        """One optimizer step at the schedule's rate, the gradient clipped over this concept's own rows.

        A gradient that is not finite is passed over: the rows stay as they are.
        """
        if self.learning_rate is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(step)
        rows = [r for r in self.rows.values() if r.requires_grad]
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(rows, self.max_grad_norm or float("inf")))  # waits for the device
        self.still = None if self.still is None or norm != 0 else self.still + 1
        if scaler is not None:
            scaler.step(self.optimizer)  # skips gradients that are not finite
        elif math.isfinite(norm):  # one bad step does not end the run
            if not waits(self.optimizer):
                self.optimizer.step()
            self.skipped.clear()
        else:
            self.skipped.append(step)
        if self.average is not None and self.ema_decay is not None:
            decay = min(self.ema_decay, (1 + step) / (10 + step))  # forgets the start sooner in a young run
            for name, rows in self.rows.items():
                self.average[name].lerp_(rows.detach(), 1 - decay)

    @torch.no_grad()
    def result(self) -> dict[str, torch.Tensor]:
        """The rows to save, show and judge: the best if they were looked for, else the average where one is kept.

        Changes nothing. Schedule-free optimizers (Defazio et al. 2024) step at one point and answer with another.
        """
        kept = self.chosen or self.average
        if kept is not None:
            return {name: values.clone() for name, values in kept.items()}
        now = {name: rows.detach().clone() for name, rows in self.rows.items()}
        if not hasattr(self.optimizer, "eval"):
            return now
        self.optimizer.eval()  # pyright: ignore[reportAttributeAccessIssue]
        answer = {name: rows.detach().clone() for name, rows in self.rows.items()}
        self.optimizer.train()  # pyright: ignore[reportAttributeAccessIssue]
        self.put(now)  # bitwise: going there and back rounds
        return answer

    @torch.no_grad()
    def put(self, values: dict[str, torch.Tensor]) -> None:
        """Write `values` into the rows."""
        for name, rows in self.rows.items():
            rows.copy_(values[name])


@contextmanager
def rows_as(concepts: Sequence[Concept], values: Sequence[dict[str, torch.Tensor]]) -> Iterator[None]:
    """Other rows for the time of the block."""
    now = [{name: rows.detach().clone() for name, rows in c.rows.items()} for c in concepts]
    for concept, rows in zip(concepts, values, strict=True):
        concept.put(rows)
    try:
        yield
    finally:
        for concept, rows in zip(concepts, now, strict=True):
            concept.put(rows)


def first_rows(model: Model, init_word: str, count: int) -> dict[str, torch.Tensor]:
    """Rows that start as the pieces of `init_word`, taken in turn. -> {encoder: float32 [count,W]}"""
    rows = {}
    for name, tokenizer in model.text.tokenizers.items():
        pieces = tokenizer.pieces(clean(init_word))
        table = model.text.vocabulary(name)
        rows[name] = table[[pieces[i % len(pieces)] for i in range(count)]].detach().float().clone()
    return rows


def sum_by(values: torch.Tensor, index: torch.Tensor, count: int) -> torch.Tensor:
    """Sum `values` [B] into `count` sums by `index` [B]. -> [count]"""
    return torch.zeros(count, device=values.device).index_add(0, index, values)
