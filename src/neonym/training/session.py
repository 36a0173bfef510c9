"""The session of a word: everything that its training works with from its first step to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from accelerate import Accelerator

from neonym.config.run import RunConfig
from neonym.data.loader import Loader
from neonym.models.graphs.graphs import with_room
from neonym.models.lexicon import Lexicon
from neonym.models.model import Model
from neonym.preflight.milestones import Milestones
from neonym.preflight.plan import TrainingPlan
from neonym.runs.dispatcher import Dispatcher
from neonym.runs.losses import LossQueue
from neonym.runs.stop import Stop, StopRequested
from neonym.training.checkpoint import CheckpointStore
from neonym.training.evaluation import Evaluation
from neonym.training.finite import FiniteChecks
from neonym.training.graphs import StepGraphs
from neonym.training.processes import agree, largest, together
from neonym.training.samples import SampleRenderer
from neonym.training.state import TrainState

Found = TypeVar("Found")


@dataclass
class Session:
    """The parts of a word's training. Every process of the run has one for each word that learns."""

    plan: TrainingPlan
    model: Model
    lexicon: Lexicon
    state: TrainState
    store: CheckpointStore
    loader: Loader
    accelerator: Accelerator
    events: Dispatcher
    stop: Stop
    deadline: float = float("inf")  # of `--max_train_time`, in seconds of the monotonic clock
    graphs: StepGraphs | None = None

    def __post_init__(self) -> None:
        plan, concept = self.plan, self.state.concept
        self.losses = LossQueue()
        self.checks = FiniteChecks(concept, self.loader.plan)
        self.evaluation = Evaluation(plan, self.loader, self.model, concept, self.check_stop, self.together)
        self.sample_renderer = SampleRenderer(plan.run.sample, plan.prompts, self.store.sample_folder, self.store.name)

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Let the model read this word and no other for the duration of the block."""
        with self.model.text.using(self.lexicon):
            yield

    def with_room(self, compute: Callable[[], Found]) -> Found:
        """Return what a function returns. If the memory of a GPU does not suffice, it gets that of the graphs."""
        return with_room(self.graphs, compute)

    @property
    def milestones(self) -> Milestones:
        """The steps at which training begins, ends and saves."""
        return self.plan.milestones

    @property
    def is_main(self) -> bool:
        """Whether this process writes files, generates samples and emits events."""
        return self.accelerator.is_main_process

    @property
    def stops_early(self) -> bool:
        """Whether early stopping ends training now."""
        return self.state.early_stopping is not None and self.state.early_stopping.should_stop()

    @property
    def is_late(self) -> bool:
        """Whether the time of `--max_train_time` is up."""
        return time.monotonic() > self.deadline

    def ends(self) -> tuple[bool, bool]:
        """Return whether early stopping ends training now, and whether its time is up, in one of the processes."""
        stops_early, is_late = largest(self.accelerator, [self.stops_early, self.is_late])
        return bool(stops_early), bool(is_late)

    def together(self) -> AbstractContextManager[None]:
        """Return a context that ends with the same error in every process."""
        return together(self.accelerator)

    def check_stop(self) -> None:
        """Raise StopRequested in every process if a stop was requested in one of them."""
        if signal := agree(self.accelerator, self.stop.signal):
            raise StopRequested(signal)


def deadline_of(run: RunConfig, started: float) -> float:
    """Return when `--max_train_time` ends a training that `started` then, in seconds of the monotonic clock."""
    minutes = run.optim.max_train_time
    return float("inf") if minutes is None else started + 60 * minutes
