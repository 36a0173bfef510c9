"""Nothing that is not finite goes on or is written, and no run goes on that cannot move its words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from neonym.data.loader import Plan
from neonym.errors import UserError
from neonym.training.concept import Concept
from neonym.types import Work

BAD_STEPS_ALLOWED = 5
LOOK_EVERY = 20  # steps


class Guard:
    """Steps without a finite loss change nothing; after a few of them the run ends. Rows are checked before each save."""

    def __init__(self, concepts: Sequence[Concept], plans: Sequence[Plan]):
        self.concepts, self.plans = concepts, plans
        self.recent: list[tuple[Work, torch.Tensor]] = []

    def watch(self, work: Work, losses: torch.Tensor) -> None:
        """Looks at the losses of many steps at once: one transfer from the device."""
        self.recent.append((work, losses))
        if len(self.recent) >= LOOK_EVERY:
            self.look()
            self.check()

    def look(self) -> None:
        """Raises UserError if too many of the recent losses were not finite, naming a step and its pictures."""
        if not self.recent:
            return
        finite = torch.stack([losses for _, losses in self.recent]).isfinite().tolist()  # [steps,N]
        bad = [
            (work, index)
            for (work, _), row in zip(self.recent, finite, strict=True)
            for index, ok in enumerate(row)
            if not ok
        ]
        self.recent = []
        index, count = Counter(index for _, index in bad).most_common(1)[0] if bad else (0, 0)
        if count > BAD_STEPS_ALLOWED:
            work = next(work for work, concept in bad if concept == index)
            self.stop(f"the loss of {count} steps, first of {self.place(index, work.step)},")

    def check(self) -> None:
        """Raises UserError if a row is not finite, many steps in a row were passed over, or no step had a gradient."""
        for index, concept in enumerate(self.concepts):
            if (concept.still or 0) >= LOOK_EVERY:
                what = f"`{concept.token}` had no gradient in {concept.still} steps: nothing reaches the word"
                raise UserError(what, "training", "Leave --torch_compile and fp16 out; see that masks are not empty")
            if (count := len(concept.skipped)) > BAD_STEPS_ALLOWED:
                place = self.place(index, concept.skipped[0])
                self.stop(f"the gradients of `{concept.token}`, {count} steps in a row, first of {place},")
            if not all(bool(rows.isfinite().all()) for rows in concept.rows.values()):
                self.stop(f"the vectors of `{concept.token}`")

    def place(self, concept: int, step: int) -> str:
        """A step and its pictures."""
        names = sorted({draw.record.path.name for draw in self.plans[concept].draws(step)})
        return f"step {step + 1} ({', '.join(names)})"

    def stop(self, what: str) -> None:
        fix = "Lower --learning_rate, or use --mixed_precision no or bf16; files saved before are intact"
        raise UserError(f"{what} became infinite or not a number; nothing more is written", "training", fix)
