"""Finite checks: end a run whose numbers become infinite or NaN, or whose word receives no gradient."""

from __future__ import annotations

import torch

from neonym.data.loader import Plan
from neonym.errors import UserError
from neonym.training.concept import Concept

BAD_STEPS_ALLOWED = 5
CHECK_EVERY = 20  # steps


class FiniteChecks:
    """The checks of a word's losses, gradients and rows.

    A step whose gradient is not finite is skipped; after a few of them training ends. Rows are checked before each save.
    """

    def __init__(self, concept: Concept, plan: Plan):
        self.concept, self.plan = concept, plan
        self.recent: list[tuple[int, torch.Tensor]] = []

    def watch(self, step: int, loss: torch.Tensor) -> None:
        """Collect the loss [] of a step, and check those of many steps together, in one transfer from the device.

        Raises UserError as `check_losses` and `check_rows` do.
        """
        self.recent.append((step, loss))
        if len(self.recent) >= CHECK_EVERY:
            self.check_losses()
            self.check_rows()

    def check_losses(self) -> None:
        """Raise UserError, naming a step and its images, if too many of the recent losses are not finite."""
        if not self.recent:
            return
        finite = torch.stack([loss for _, loss in self.recent]).isfinite().tolist()  # [steps]
        bad = [step for (step, _), ok in zip(self.recent, finite, strict=True) if not ok]
        self.recent = []
        if len(bad) > BAD_STEPS_ALLOWED:
            raise self.not_finite(f"the loss of {len(bad)} steps, first of {self.describe_step(bad[0])},")

    def check_rows(self) -> None:
        """Raise UserError if a row is not finite, too many steps in a row were skipped, or no step had a gradient."""
        concept = self.concept
        without_gradient, skipped, first = concept.counts.read()
        if without_gradient >= CHECK_EVERY:
            what = f"`{concept.token}` received no gradient in {without_gradient} steps, so it cannot be learned"
            raise UserError(what, "training", "Leave out --torch_compile and fp16, and check that no mask is empty")
        if skipped > BAD_STEPS_ALLOWED:
            place = self.describe_step(first)
            raise self.not_finite(f"the gradients of `{concept.token}`, {skipped} steps in a row, first of {place},")
        if not all(bool(rows.isfinite().all()) for rows in concept.rows.values()):
            raise self.not_finite(f"the vectors of `{concept.token}`")

    def describe_step(self, step: int) -> str:
        """Return the number of a step with its image files, for a message."""
        names = sorted({draw.record.path.name for draw in self.plan.draws(step)})
        return f"step {step + 1} ({', '.join(names)})"

    @staticmethod
    def not_finite(what: str) -> UserError:
        """Return the error that ends the run."""
        fix = "Lower --learning_rate, or use --mixed_precision no or bf16; files saved earlier are intact"
        return UserError(f"{what} became infinite or not a number; no further files are written", "training", fix)
