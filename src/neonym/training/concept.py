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
from neonym.errors import UserError
from neonym.models.encoders.rows import Rows, exact
from neonym.models.model import Model
from neonym.training.after_step import AfterStep
from neonym.training.update import StepCounts, can_undo, step_if_finite, tensors_in

if TYPE_CHECKING:
    from accelerate import Accelerator

SMALLEST_RATE = 1e-20  # moves nothing; capturable optimizers divide by the rate


@dataclass
class Concept:
    """A new word while it is learned: its rows, float32 whatever the precision of the model, and their optimizer."""

    token: str
    init_word: str
    seed: int
    rows: dict[str, Rows]  # {encoder: [n,W]}
    start: dict[str, torch.Tensor]  # the initial rows
    optimizer: torch.optim.Optimizer
    record: OptimizerRecord  # what the optimizer is capable of
    learning_rate: Callable[[int], float] | None  # from the step; None: the optimizer has a schedule of its own
    max_grad_norm: float
    scaler: GradScaler | None = None  # of fp16
    after_step: Sequence[AfterStep] = ()  # hooks that run after each optimizer step, in order
    # The rows with the lowest evaluation loss, if they replace the last ones
    best_rows: dict[str, torch.Tensor] | None = None
    counts: StepCounts = field(default_factory=StepCounts)

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
        """Clear the gradients of this step."""
        self.optimizer.zero_grad(set_to_none=True)
        for rows in self.rows.values():
            rows.gradients = None

    def update(self, step: int) -> None:
        """Take an optimizer step at the scheduled learning rate, the gradient clipped over this concept's own rows.

        A step whose gradient is not finite is skipped: rows, moments and averages stay as they are. With a scaler
        (fp16) the path is the same: `unscale_` notices the infinity, and the scaler's `update` lowers the scale. The
        host does not wait for the device where `can_undo` holds.
        """
        self.take_step(step)
        if self.scaler is not None:
            self.scaler.update()

    def take_step(self, step: int) -> None:
        """Take an optimizer step, as `update` describes, but leave the scale as it is."""
        if self.learning_rate is not None:
            for group in self.optimizer.param_groups:
                rate = self.learning_rate(step) * group.get("rate_factor", 1.0)
                group["lr"] = max(rate, SMALLEST_RATE) if group.get("capturable") else rate
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        rows = [r for r in self.rows.values() if r.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(rows, self.max_grad_norm or math.inf)  # []
        self.counts.add(step, norm, None if self.scaler is None else self.scaler.scale(torch.ones_like(norm)))
        if self.record.waits_at_zero and self.optimizer.param_groups[0]["lr"] == 0:
            return
        if can_undo(self.optimizer, norm.device):
            step_if_finite(norm, lambda: self.move(step), self.changing)
        elif norm.isfinite():
            self.move(step)

    def move(self, step: int) -> None:
        """Let the optimizer change the rows, then the hooks."""
        self.optimizer.step()
        with torch.no_grad():
            for after in self.after_step:
                after(step, self.rows)

    def changing(self) -> Iterator[torch.Tensor]:
        """Return everything that `move` changes."""
        yield from (rows.detach() for rows in self.rows.values())
        yield from tensors_in(self.optimizer)
        yield from (values for after in self.after_step for values in after.kept.values())

    @torch.no_grad()
    def result(self) -> dict[str, torch.Tensor]:
        """Return the rows {encoder: [n,W]} to save, render and judge, as copies.

        They are the best rows if early stopping chose them, else the moving average if there is one, else the rows as
        they are. Schedule-free optimizers (Defazio et al. 2024) take gradients at one point and evaluate at another.
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
        self.set_rows(now)  # `eval` and `train` undo each other only up to rounding
        return answer

    @torch.no_grad()
    def set_rows(self, values: dict[str, torch.Tensor]) -> None:
        """Copy `values` {encoder: [n,W]} into the rows."""
        for name, rows in self.rows.items():
            rows.copy_(values[name])


@contextmanager
def temporary_rows(concept: Concept, values: dict[str, torch.Tensor]) -> Iterator[None]:
    """Replace the rows of a concept by `values` for the duration of the block."""
    now = {name: rows.detach().clone() for name, rows in concept.rows.items()}
    concept.set_rows(values)
    try:
        yield
    finally:
        concept.set_rows(now)


def initial_rows(model: Model, init_word: str, count: int) -> dict[str, torch.Tensor]:
    """Return the initial rows {encoder: float32 [count,W]}: the embeddings of the tokens of `init_word`, in turn.

    Raises UserError if a tokenizer reads no token in it; `preflight/words.py` reports that before a run starts.
    """
    rows = {}
    for name in model.text.tables:
        ids = model.text.tokenizers[name].ids_of(init_word)
        if not ids:
            raise UserError(f"has no token for {name}", f"the init word {init_word!r}", "Give an ordinary word")
        table = model.text.vocabulary(name)
        rows[name] = table[[ids[i % len(ids)] for i in range(count)]].detach().float().clone()
    return rows
