"""The session: everything that a run works with from its first step to its end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator

from neonym.data.loader import Loader
from neonym.models.model import Model
from neonym.preflight.milestones import Milestones
from neonym.preflight.plan import TrainingPlan
from neonym.runs.dispatcher import Dispatcher
from neonym.runs.losses import LossQueue
from neonym.runs.stop import Stop, StopRequested
from neonym.training.checkpoint import CheckpointStore
from neonym.training.evaluation import Evaluation
from neonym.training.finite import FiniteChecks
from neonym.training.samples import SampleRenderer
from neonym.training.state import TrainState


@dataclass
class Session:
    """The parts of a run that is about to train. Every process of the run has one."""

    plan: TrainingPlan
    model: Model
    state: TrainState
    store: CheckpointStore
    loader: Loader
    accelerator: Accelerator
    events: Dispatcher
    stop: Stop

    def __post_init__(self) -> None:
        plan, concepts = self.plan, self.state.concepts
        self.losses = LossQueue()
        self.checks = FiniteChecks(concepts, self.loader.plans)
        self.evaluation = Evaluation(plan, self.loader, self.model, concepts, self.check_stop)
        self.sample_renderer = SampleRenderer(
            plan.run.sample, plan.prompts, self.store.sample_folder, self.store.run_name
        )

    @property
    def milestones(self) -> Milestones:
        """The steps at which the run begins, ends and saves."""
        return self.plan.milestones

    @property
    def is_main(self) -> bool:
        """Whether this process writes files, generates samples and emits events."""
        return self.accelerator.is_main_process

    @property
    def stops_early(self) -> bool:
        """Whether early stopping ends the run now."""
        return self.state.early_stopping is not None and self.state.early_stopping.should_stop()

    def agree(self, value: int) -> int:
        """Return the largest value over all processes, so that all of them do the same after the same step."""
        if self.accelerator.num_processes == 1:
            return int(value)
        values = self.accelerator.gather(torch.tensor([int(value)], device=self.accelerator.device))
        return int(values.max())  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue, reportArgumentType]

    def check_stop(self) -> None:
        """Raise StopRequested in every process if a stop was requested in one of them."""
        if signal := self.agree(self.stop.signal):
            raise StopRequested(signal)
