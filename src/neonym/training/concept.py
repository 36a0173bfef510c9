"""The learned rows: the only numbers that training changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.amp.grad_scaler import GradScaler

from neonym.config.optimizers import OptimizerRecord
from neonym.models.encoders.rows import Rows, exact
from neonym.models.model import Model
from neonym.text.words import clean
from neonym.training.after_step import AfterStep

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
    record: OptimizerRecord  # what the optimizer is capable of
    learning_rate: Callable[[int], float] | None  # step -> learning rate; None: the optimizer has its own
    max_grad_norm: float
    after_step: Sequence[AfterStep] = ()  # what happens to the rows after each step that moved them, in order
    best_rows: dict[str, torch.Tensor] | None = None  # rows that were better than the last ones
    skipped: list[int] = field(
        default_factory=list
    )  # the last steps in a row that were passed over (see `count_skipped`)
    steps_without_gradient: int | None = 0  # steps until now, all of which had no gradient at all; None: one had

    def sum_gradients(self, accelerator: Accelerator) -> None:
        """Sum the gradients over all processes: a few rows, so one small reduction and no wrapper around the model."""
        for rows in self.rows.values():
            if not rows.requires_grad:
                continue
            total = rows.gradients
            if total is None:
                total = torch.zeros_like(rows, dtype=exact(rows.device))
            if accelerator.num_processes > 1:
                total = accelerator.reduce(total, "sum")
            rows.grad = total.float()  # pyright: ignore[reportAttributeAccessIssue]

    def clear_gradients(self) -> None:
        """Drop the gradients of this step."""
        self.optimizer.zero_grad(set_to_none=True)
        for rows in self.rows.values():
            rows.gradients = None

    def update(self, step: int, scaler: GradScaler | None) -> None:
        """Make one optimizer step at the schedule's rate, the gradient clipped over this concept's own rows.

        A step whose gradient is not finite is passed over: rows, moments and averages stay as they are. With a `scaler`
        (fp16) the path is the same; the scaler learns of the infinity from `unscale_` and lowers the scale in its `update`.
        """
        if self.learning_rate is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(step)
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        rows = [r for r in self.rows.values() if r.requires_grad]
        norm = float(torch.nn.utils.clip_grad_norm_(rows, self.max_grad_norm or math.inf))  # waits for the device
        self.steps_without_gradient = (
            None if self.steps_without_gradient is None or norm != 0 else self.steps_without_gradient + 1
        )
        if not math.isfinite(norm):  # one bad step does not end the run
            self.count_skipped(step, scaler)
            return
        self.skipped.clear()
        if self.record.waits_at_zero and self.optimizer.param_groups[0]["lr"] == 0:
            return
        self.optimizer.step()
        with torch.no_grad():
            for after in self.after_step:
                after(step, self.rows)

    def count_skipped(self, step: int, scaler: GradScaler | None) -> None:
        """Count a step whose gradient is not finite, unless it is the scale that made it so.

        Scaled gradients overflow while the scale falls from its start (65536), and once whenever it has been doubled.
        At a scale of 1 or less they would not be finite without a scaler either. The scale is read in such steps only,
        for reading waits for the device.
        """
        if scaler is None or scaler.get_scale() <= 1:
            self.skipped.append(step)

    @torch.no_grad()
    def result(self) -> dict[str, torch.Tensor]:
        """Return the rows to save, show and judge: the best if they were looked for, else the average where one is kept.

        Changes nothing. Schedule-free optimizers (Defazio et al. 2024) step at one point and answer with another.
        """
        kept = self.best_rows or next((after.kept for after in self.after_step if after.is_result), None)
        if kept is not None:
            return {name: values.clone() for name, values in kept.items()}
        now = {name: rows.detach().clone() for name, rows in self.rows.items()}
        if not self.record.averages:
            return now
        self.optimizer.eval()  # pyright: ignore[reportAttributeAccessIssue]
        answer = {name: rows.detach().clone() for name, rows in self.rows.items()}
        self.optimizer.train()  # pyright: ignore[reportAttributeAccessIssue]
        self.set_rows(now)  # bitwise: going there and back rounds
        return answer

    @torch.no_grad()
    def set_rows(self, values: dict[str, torch.Tensor]) -> None:
        """Write `values` {encoder: [n,W]} into the rows."""
        for name, rows in self.rows.items():
            rows.copy_(values[name])


@contextmanager
def temporary_rows(concepts: Sequence[Concept], values: Sequence[dict[str, torch.Tensor]]) -> Iterator[None]:
    """Put other rows into the concepts for the time of the block."""
    now = [{name: rows.detach().clone() for name, rows in c.rows.items()} for c in concepts]
    for concept, rows in zip(concepts, values, strict=True):
        concept.set_rows(rows)
    try:
        yield
    finally:
        for concept, rows in zip(concepts, now, strict=True):
            concept.set_rows(rows)


def initial_rows(model: Model, init_word: str, count: int) -> dict[str, torch.Tensor]:
    """Return rows that start as the pieces of `init_word`, taken in turn: {encoder: float32 [count,W]}."""
    rows = {}
    for name, tokenizer in model.text.tokenizers.items():
        pieces = tokenizer.pieces(clean(init_word))
        table = model.text.vocabulary(name)
        rows[name] = table[[pieces[i % len(pieces)] for i in range(count)]].detach().float().clone()
    return rows


def sum_by_index(values: torch.Tensor, index: torch.Tensor, count: int) -> torch.Tensor:
    """Return the sums [count] of the `values` [B] that have the same `index` [B]."""
    return torch.zeros(count, device=values.device).index_add(0, index, values)
