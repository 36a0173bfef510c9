"""The evaluation loss: always the same pictures, noise and noise levels, so that two measurements differ by the rows only."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from neonym.data.captions import Moment
from neonym.data.loader import Loader
from neonym.learn.caption_checks import ENOUGH_HELD_OUT
from neonym.learn.events import Report
from neonym.learn.objective import Objective
from neonym.learn.prepare import Prepared
from neonym.learn.rows import Concept, rows_as
from neonym.learn.step import sample_losses
from neonym.models.family import Model
from neonym.types import Batch, Draw, ImageRecord

EVALUATION = -1  # the "step" of evaluation keys: no training step has it


class Evaluation:
    """What each concept is judged on."""

    def __init__(self, ready: Prepared, loader: Loader, model: Model, concepts: Sequence[Concept]):
        self.model, self.concepts = model, concepts
        self.objective = Objective()  # whatever the training minimises, words are compared by the plain loss
        chosen = [pictures_of(ready, index) for index in range(len(concepts))]
        self.shown_on = [where for _, where in chosen]
        self.batches = [make_batches(ready, loader, i, pictures) for i, (pictures, _) in enumerate(chosen)]

    @torch.no_grad()
    def losses(self, rows: Sequence[dict[str, torch.Tensor]] | None = None) -> list[torch.Tensor]:
        """Per concept the losses of its samples with these rows (default: what would be saved now). -> [samples] each"""
        with rows_as(self.concepts, rows or [c.result() for c in self.concepts]):
            return [
                torch.cat([sample_losses(self.model, batch, self.objective) for batch in batches]).cpu()
                for batches in self.batches
            ]

    def tell(self, report: Report, step: int, losses: Sequence[torch.Tensor]) -> list[float]:
        """The mean of each concept, to the terminal and the event file. -> the means"""
        means = [float(loss.mean()) for loss in losses]
        report.event("evaluated", step=step, loss=sum(means) / len(means), losses=means)
        return means


def pictures_of(ready: Prepared, concept: int) -> tuple[list[ImageRecord], str]:
    """Its held-out pictures if there are enough, else its training pictures."""
    held_out = [r for r in ready.held_out if r.concept == concept]
    if len(held_out) >= ENOUGH_HELD_OUT:
        return held_out, "held-out pictures"
    return [r for r in ready.records if r.concept == concept and not r.is_reg], "the training pictures"


def make_batches(ready: Prepared, loader: Loader, concept: int, pictures: Sequence[ImageRecord]) -> list[Batch]:
    """Noise levels spread evenly over all, the pictures in turn."""
    count, plan = ready.run.eval.eval_samples, ready.plans[concept]
    at = Moment(step=plan.steps)  # captions have all their tags
    draws = [plan.draw(pictures[i % len(pictures)], EVALUATION, i, (i + 0.5) / count, at) for i in range(count)]
    draws.sort(key=lambda draw: draw.record.fit.bucket)
    batches: list[Batch] = []
    size = ready.datasets[0].batch_size
    while draws:
        part: list[Draw] = [d for d in draws[:size] if d.record.fit.bucket == draws[0].record.fit.bucket]
        batches.append(loader.batch(part, concept))
        draws = draws[len(part) :]
    return batches
