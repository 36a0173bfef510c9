"""A lane: one word from its plan to its result, while others learn with the same model."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from accelerate import Accelerator

from neonym.data.shared_moments import SharedMoments
from neonym.errors import UserError
from neonym.models.loading.identify import with_weights
from neonym.models.model import Model
from neonym.preflight.plan import TrainingPlan
from neonym.runs.dispatcher import Dispatcher
from neonym.runs.events import Failed, Opened, Started
from neonym.runs.stop import Stop
from neonym.training.checkpoint import CheckpointStore
from neonym.training.concepts import add_concept
from neonym.training.early_stopping import EarlyStopping
from neonym.training.ending import Result, report_finished
from neonym.training.load import encode_images, make_loader
from neonym.training.measured_rates import with_measured_rates
from neonym.training.memory import refuse_without_memory
from neonym.training.metadata import settings_metadata
from neonym.training.periodic import begin_evaluations, sample_if_due
from neonym.training.precision import weight_dtype
from neonym.training.processes import main_process_first, together
from neonym.training.resume import StartingPoint, find_starting_point
from neonym.training.session import Session
from neonym.training.state import TrainState, restore


@dataclass
class Lane:
    """One word of a run. `notes` are emitted once its run folder is open."""

    plan: TrainingPlan
    events: Dispatcher
    notes: list[str] = field(default_factory=list)
    locks: ExitStack = field(default_factory=ExitStack)  # of its run folder; released after its last event
    outcome: Result | UserError | None = None

    def end(self, outcome: Result | UserError) -> None:
        """Set the outcome, emit an event if it is an error, and release the run folder."""
        self.outcome = outcome
        if isinstance(outcome, UserError):
            self.events.emit(Failed(str(outcome)))
        self.locks.close()

    def open(self, accelerator: Accelerator, is_loaded: bool = False) -> OpenedWord | None:
        """Open the run folder and find where training starts. Return None if it is finished.

        Raises UserError, also if there is no memory for the model, unless it `is_loaded` already.
        """
        events, plan = self.events, self.plan
        for note in self.notes:
            events.note(note)
        for problem in plan.problems:
            events.note(f"{problem.severity}: {problem}", "warning" if problem.severity == "warning" else "info")
        reads_half = weight_dtype(accelerator) != torch.float32
        source = main_process_first(accelerator, lambda: with_weights(plan.source, reads_half))
        plan = replace(plan, source=source)
        store = CheckpointStore(plan)
        with together(accelerator):
            if accelerator.is_main_process:
                if not is_loaded:
                    refuse_without_memory(plan, accelerator)
                self.locks.enter_context(store.open())
        with together(accelerator):
            start = find_starting_point(plan, store)
        for note in start.notes:
            events.note(note)
        if start.finished and start.saved is not None:
            self.end(report_finished(store, start.finished, start.saved.step, events))
            return None
        with together(accelerator):
            events.emit(Opened(store.folder, (plan.token,)))
        return OpenedWord(self, plan, store, start)


@dataclass
class OpenedWord:
    """A word whose run folder is open: it has a place for its files and a step to start from."""

    lane: Lane
    plan: TrainingPlan
    store: CheckpointStore
    start: StartingPoint

    @property
    def first_step(self) -> int:
        """The step that a saved state was left at, 0 without one."""
        return self.start.saved.step if self.start.saved else 0

    def begin(
        self, model: Model, shared: SharedMoments, accelerator: Accelerator, stop: Stop, deadline: float
    ) -> Session:
        """Encode the images that no other word has had encoded, and make the word's part of the model.

        Raises StopRequested while they are encoded, and UserError.
        """
        events = self.lane.events
        lexicon = model.text.new_lexicon(self.plan.tokenizers)
        with model.text.using(lexicon):
            with stop.at_once():
                latents = encode_images(self.plan, model, events, stop, shared)
            plan, notes = with_measured_rates(self.plan, model)
            model.source = replace(model.source, spreads=plan.source.spreads)
            self.store.metadata |= settings_metadata(plan.run)
            state = self.first_state(plan, model, accelerator)
            for note in notes:
                events.note(note)
            loader = make_loader(plan, latents, model, accelerator)
            return Session(plan, model, lexicon, state, self.store, loader, accelerator, events, stop, deadline)

    def first_state(self, plan: TrainingPlan, model: Model, accelerator: Accelerator) -> TrainState:
        """Return the state before the first step of this run: a new one, or the saved one from which it continues."""
        settings, concept = plan.run.eval, add_concept(model, plan, accelerator.scaler)
        early_stopping = (
            EarlyStopping(settings.early_stop_window, settings.early_stop_threshold) if settings.early_stop else None
        )
        origin, first = plan.run.save.resume or "", plan.milestones.first
        state = TrainState(concept, self.start.fingerprint, first, origin, early_stopping)
        if self.start.saved is not None:
            restore(state, self.start.saved)
        return state


def begin_steps(run: Session) -> None:
    """Emit the first event of training, and do what is due before the first step. Raises StopRequested."""
    plan = run.plan.concept.samples
    samples = sum(len(images) for _, images in plan.groups) / plan.steps_per_epoch
    run.events.emit(Started(run.state.step, run.milestones.total, run.milestones.steps_per_epoch, samples))
    begin_evaluations(run)
    sample_if_due(run)
