"""Evaluations on fixed images, noise and noise levels, so that only the rows differ between two measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from neonym.data.captions import Moment
from neonym.data.loader import Loader
from neonym.generation.worth import CaptionedBatch, Worth, count_predictions, measure_worth
from neonym.models.model import Model
from neonym.preflight.plan import PlannedConcept, TrainingPlan
from neonym.training.concept import Concept, initial_rows, temporary_rows
from neonym.training.objective import Objective
from neonym.training.step import sample_losses
from neonym.types import Draw, ImageRecord

EVALUATION = -1  # the "step" of evaluation keys: no training step has it
VERDICT_SAMPLES = 8, 24  # the least and the most of a verdict
SAMPLES_PER_STEP_SAMPLE = 6  # between those: less than the cost of 16 steps (`python -m benchmarks.verdict --cost`)


class Evaluation:
    """The fixed samples of a word, and the measurements on them.

    `watch` is called between predictions; it may raise to interrupt a measurement. Images are read in the context
    `reading`, because only some processes may be able to.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        loader: Loader,
        model: Model,
        concept: Concept,
        watch: Callable[[], None],
        reading: Callable[[], AbstractContextManager[None]] = nullcontext,
    ):
        self.plan, self.loader, self.model, self.concept = plan, loader, model, concept
        self.watch, self.reading = watch, reading
        self.objective = Objective()  # words are compared by the plain loss, whatever training minimises
        self.images, self.judged_on = images_to_judge(plan.concept)
        self.samples: list[CaptionedBatch] = []  # created on first use

    @torch.no_grad()
    def losses(self, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the losses [samples] with these rows."""
        self.samples = self.samples or self.first_samples(self.plan.run.eval.eval_samples)
        with self.uncompiled(), temporary_rows(self.concept, rows):
            return torch.cat([self.loss(batch) for batch in self.samples]).cpu()

    def loss_of(self, rows: dict[str, torch.Tensor]) -> float:
        """Return the mean loss with these rows."""
        return float(self.losses(rows).mean())

    def loss(self, captioned: CaptionedBatch) -> torch.Tensor:
        """Return the losses [B] of one batch of samples."""
        self.watch()
        return sample_losses(self.model, captioned.batch, self.objective)

    def worth(self, progress: Callable[[int, int], None]) -> Worth:
        """Return what the word is worth, compared with its init word.

        `progress` is called with the predictions done and their total.
        """
        samples = self.first_samples(self.verdict_samples())
        done, total = 0, count_predictions(samples)

        def watch() -> None:
            nonlocal done
            self.watch()
            done += 1
            progress(done, total)

        concept, learned = self.concept, self.concept.result()
        initial = initial_rows(self.model, concept.init_word, len(next(iter(learned.values()))))
        start = {encoder: initial[encoder] for encoder in learned}  # others read the same in both
        with self.uncompiled():
            return measure_worth(self.model, samples, concept.token, start, learned, watch)

    def uncompiled(self) -> AbstractContextManager[object]:
        """Return a context that disables compilation.

        Compiling for batch sizes other than a step's takes longer than computing them.
        """
        compiled = self.plan.run.compute.torch_compile
        return torch.compiler.set_stance("force_eager") if compiled else nullcontext()

    def verdict_samples(self) -> int:
        """Return how many samples the verdict uses. Each takes a few predictions without gradients."""
        least, most = VERDICT_SAMPLES
        step = self.plan.step_sizes[self.images[0].dataset]
        return min(self.plan.run.eval.eval_samples, max(least, min(most, SAMPLES_PER_STEP_SAMPLE * step)))

    def first_samples(self, count: int) -> list[CaptionedBatch]:
        """Return `count` samples, in batches of images of one size.

        The noise levels are spread evenly over the samples; the images are used in turn.
        """
        samples, images = self.plan.concept.samples, self.images
        at = Moment(step=samples.steps)  # captions have all their tags
        draws = [samples.draw(images[i % len(images)], EVALUATION, i, (i + 0.5) / count, at) for i in range(count)]
        draws.sort(key=lambda draw: draw.record.fit.bucket)
        found: list[CaptionedBatch] = []
        # Without gradients, memory suffices for twice the batch
        size = 2 * (self.loader.micro_batch or self.plan.datasets[0].batch_size)
        with self.reading():
            while draws:
                part: list[Draw] = [d for d in draws[:size] if d.record.fit.bucket == draws[0].record.fit.bucket]
                found.append(CaptionedBatch(self.loader.batch(part), [d.caption for d in part]))
                draws = draws[len(part) :]
        return found


def images_to_judge(concept: PlannedConcept) -> tuple[Sequence[ImageRecord], str]:
    """Return the images that a word is judged on, and a name for them.

    These are the held-out images if there are enough, else the training images.
    """
    if concept.is_judged_on_held_out:
        return concept.held_out, "held-out images"
    return concept.training_images, "the training images"
