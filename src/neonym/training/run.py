"""A training run from its plan to its files: open, resume, load, train, judge, write."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import Accelerator

from neonym.errors import UserError
from neonym.models.loading.identify import with_weights
from neonym.models.model import Model
from neonym.preflight.plan import TrainingPlan
from neonym.runs.dispatcher import Dispatcher
from neonym.runs.events import Failed, Finished, Judged, Judging, Opened, Started, Stopped
from neonym.runs.stop import Stop, StopRequested
from neonym.training.checkpoint import CheckpointStore
from neonym.training.concepts import add_concepts
from neonym.training.early_stopping import EarlyStopping
from neonym.training.load import encode_images, load_frozen_model, make_loader
from neonym.training.loop import run_steps
from neonym.training.measured_rates import with_measured_rates
from neonym.training.memory import refuse_without_memory, with_fit
from neonym.training.metadata import settings_metadata
from neonym.training.periodic import begin_evaluations, concept_norms_and_distances, sample_if_due
from neonym.training.resume import StartingPoint, find_starting_point
from neonym.training.session import Session
from neonym.training.setup import errors_of_main_process, start_accelerator, weight_dtype, with_precision
from neonym.training.state import TrainState, restore
from neonym.training.verdict import Verdict, make_verdict


@dataclass
class Result:
    """The outcome of a run. `signal` is the signal that stopped it, 0 if it reached its end.

    `was_finished` says that an earlier call had finished the run, so that nothing was done.
    """

    files: list[Path] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    steps: int = 0
    signal: int = 0
    was_finished: bool = False


def train_plan(plan: TrainingPlan, events: Dispatcher, stop: Stop) -> Result:
    """Run a complete plan: open the run folder, resume, train, judge and write.

    Listeners are called in the main process only. Raises UserError; unless training has started, nothing is written
    then.
    """
    notes: list[str] = []
    plan = replace(plan, run=with_precision(plan.run, plan.source, notes.append))
    accelerator = start_accelerator(plan.run, notes.append)
    plan = replace(plan, run=with_fit(plan, accelerator, notes.append))
    events = events if accelerator.is_main_process else Dispatcher()
    with ExitStack() as locks:  # released after the last event, because the event file is in the locked folder
        try:
            return open_and_train(plan, accelerator, events, stop, notes, locks)
        except BaseException as error:  # including KeyboardInterrupt: listeners end with the run
            events.emit(Failed(str(error) or type(error).__name__))
            raise


def open_and_train(
    plan: TrainingPlan, accelerator: Accelerator, events: Dispatcher, stop: Stop, notes: list[str], locks: ExitStack
) -> Result:
    """Open the run folder, find where the run starts, and train. Raises UserError."""
    for note in notes:
        events.note(note)
    for problem in plan.problems:
        events.note(f"{problem.severity}: {problem}", "warning" if problem.severity == "warning" else "info")
    with accelerator.main_process_first():
        plan = replace(plan, source=with_weights(plan.source, weight_dtype(accelerator) != torch.float32))
    store = CheckpointStore(plan)
    with errors_of_main_process(accelerator):
        if accelerator.is_main_process:
            refuse_without_memory(plan, accelerator)
            locks.enter_context(store.open())
    start = find_starting_point(plan, store)
    for note in start.notes:
        events.note(note)
    if start.finished and start.saved is not None:
        return report_finished(store, start.finished, start.saved.step, events)
    with errors_of_main_process(accelerator):
        events.emit(Opened(store.folder, tuple(plan.tokens)))
    return train_opened(plan, store, start, accelerator, events, stop)


def report_finished(store: CheckpointStore, report: str, step: int, events: Dispatcher) -> Result:
    """Return the files and verdicts of a run that had finished before."""
    verdicts = store.verdicts() or []
    events.result(report)
    events.emit(Finished(step, tuple(store.finished_files()), tuple(verdict.as_dict() for verdict in verdicts)))
    return Result(store.final_files(), verdicts, step, was_finished=True)


def train_opened(
    plan: TrainingPlan, store: CheckpointStore, start: StartingPoint, accelerator: Accelerator, events: Dispatcher, stop: Stop
) -> Result:  # fmt: skip
    """Load what the run needs, and train. A stop before the first step leaves no trace. Raises UserError."""
    try:
        with stop.at_once():
            model = load_frozen_model(plan, accelerator, events)
            latents = encode_images(plan, model, events, stop)
        plan, notes = with_measured_rates(plan, model)
        model.source = replace(model.source, spreads=plan.source.spreads)
        store.metadata |= settings_metadata(plan.run)
        state = first_state(plan, model, start, accelerator)
        for note in notes:
            events.note(note)
        loader = make_loader(plan, latents, model, accelerator)
        session = Session(plan, model, state, store, loader, accelerator, events, stop)
    except StopRequested as request:
        step = start.saved.step if start.saved else 0
        events.note("stopped before the first step; run the same command again")
        events.emit(Stopped(step, request.signal))
        return Result(steps=step, signal=request.signal)
    try:
        return train_to_end(session)
    except StopRequested as request:
        return save_and_stop(session, request.signal)


def first_state(plan: TrainingPlan, model: Model, start: StartingPoint, accelerator: Accelerator) -> TrainState:
    """Return the state before the first step of this run: a new one, or the saved one from which it continues."""
    settings = plan.run.eval
    early_stopping = (
        EarlyStopping(settings.early_stop_window, settings.early_stop_threshold) if settings.early_stop else None
    )
    origin, concepts = plan.run.save.resume or "", add_concepts(model, plan)
    state = TrainState(concepts, start.fingerprint, plan.milestones.first, origin, accelerator.scaler, early_stopping)
    if start.saved is not None:
        restore(state, start.saved)
    return state


def train_to_end(run: Session) -> Result:
    """Train to the end, judge and write the files. Raises StopRequested, and UserError if a process is lost."""
    plans = [concept.samples for concept in run.plan.concepts]
    samples = sum(sum(len(images) for _, images in plan.groups) / plan.steps_per_epoch for plan in plans)
    run.events.emit(Started(run.state.step, run.milestones.total, run.milestones.steps_per_epoch, samples))
    try:
        begin_evaluations(run)
        sample_if_due(run)
        return finish(run, run_steps(run))
    except RuntimeError as error:
        if run.accelerator.num_processes == 1 or isinstance(error, torch.OutOfMemoryError):
            raise
        raise lost_process_error(run, error) from error


def save_and_stop(run: Session, signal: int) -> Result:
    """Save the state after the last complete step, from which the same command continues."""
    step = run.state.step
    if run.is_main:
        run.checks.check_rows()
        run.store.save_last(run.state)
    way = " without --restart" if run.plan.run.save.restart else ""
    run.events.note(f"stopped after step {step}; run the same command again{way} to continue")
    run.events.emit(Stopped(step, signal))
    return Result(steps=step, signal=signal)


def lost_process_error(run: Session, error: RuntimeError) -> UserError:
    """Save the state because another process of the run is lost, and return the error to raise."""
    if run.is_main:
        run.checks.check_rows()
        run.store.save_last(run.state)
    reason = str(error).splitlines()[0]
    what = f"another process ended or did not answer in time ({reason}); step {run.state.step} is saved"
    return UserError(what, "training", "Run the same command again to continue")


def finish(run: Session, is_whole: bool) -> Result:
    """Judge the words and write the final files.

    A run that is not whole, because its time was up, can be continued. Raises StopRequested and UserError.
    """
    state, events = run.state, run.events
    run.checks.check_losses()
    run.checks.check_rows()
    if state.early_stopping is not None:
        for concept, best in zip(state.concepts, state.early_stopping.best, strict=False):
            concept.best_rows = best
    verdicts = judge_words(run)
    tables = [verdict.as_dict() for verdict in verdicts]
    files = run.store.finish(state, tables, is_whole) if run.is_main else []
    for file, verdict in zip(files, verdicts, strict=False):
        events.result("\n".join([*verdict.lines(), f"  file: {file}"]))
    events.emit(Finished(state.step, tuple(files), tuple(verdict.as_dict() for verdict in verdicts)))
    return Result(files[: len(verdicts)], verdicts, state.step)


def judge_words(run: Session) -> list[Verdict]:
    """Return the verdict on each word. Raises StopRequested between two predictions."""
    concepts, evaluation = run.state.concepts, run.evaluation
    worths = evaluation.worths(lambda done, total: run.events.emit(Judging(done, total)))
    losses = tuple(worth.loss_after for worth in worths)
    run.events.emit(Judged(run.state.step, losses, *concept_norms_and_distances(concepts)))
    return [make_verdict(run.model, *of) for of in zip(concepts, worths, evaluation.judged_on, strict=True)]
