"""Steps of the words that learn together: the next samples of each, and one step of the model for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor

from neonym.errors import UserError
from neonym.models.lexicon import joined
from neonym.models.model import Model
from neonym.training.graphs import StepGraphs
from neonym.training.micro_batches import MicroBatches
from neonym.training.objective import Objective
from neonym.training.processes import Ending, endings_of_all
from neonym.training.session import Session
from neonym.training.step import backward, train_step
from neonym.types import Work


class JointSteps:
    """The steps of several words with one model, in micro-batches of at most `most` samples; None: as memory carries."""

    def __init__(
        self, model: Model, objective: Objective, accelerator: Accelerator, most: int | None, graphs: StepGraphs | None
    ):
        self.model, self.objective, self.accelerator, self.graphs = model, objective, accelerator, graphs
        self.batches = MicroBatches(model, objective, accelerator, most)

    def works(self, runs: Sequence[Session]) -> list[Work | Ending]:
        """Return the work of each word in its next step, or the error about an image that a process cannot read."""
        works: list[Work | None] = []
        errors: list[Ending | None] = []
        for run in runs:
            work = error = None
            try:
                work = run.with_room(partial(run.loader.work, run.state.step))
            except UserError as found:
                error = found
            works.append(work)
            errors.append(error)
        pairs = zip(works, endings_of_all(self.accelerator, errors), strict=True)
        return [found for pair in pairs if (found := pair[1] or pair[0]) is not None]

    def take(self, runs: Sequence[Session], works: Sequence[Work]) -> Tensor:
        """Take one step for every word, and return the losses [N]."""
        with self.model.text.using(joined([run.lexicon for run in runs])):
            losses = self.losses(runs, works)
        for run in runs:  # the rows of all words have moved: a state that is saved from here on says so
            run.state.step += 1
        return losses

    def losses(self, runs: Sequence[Session], works: Sequence[Work]) -> Tensor:
        """Take the step, and return the losses [N]. If the memory of a GPU does not suffice, use smaller micro-batches."""
        concepts = [run.state.concept for run in runs]
        while True:
            try:
                batches = self.batches.of(runs, works)
                method = self.graphs or backward
                return train_step(self.model, concepts, works, batches, self.objective, self.accelerator, method)
            except torch.OutOfMemoryError:  # before any row has moved
                for concept in concepts:
                    concept.clear_gradients()
                if self.graphs is not None and self.graphs.make_room():
                    continue
                if len(runs) == 1 or not self.batches.shrink():
                    raise
                torch.cuda.empty_cache()

    def words_that_fit(self, run: Session) -> int:
        """Return how many words like this one fill a micro-batch. Raises DataError."""
        return max(1, self.batches.samples_that_fit(run) // max(run.plan.step_sizes))
