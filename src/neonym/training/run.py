"""A training run from its plan to its files: open, resume, load, train, judge, write."""

from __future__ import annotations

from contextlib import nullcontext
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
from neonym.training.due import begin_evaluations, lengths_of_words, sample_due
from neonym.training.early_stopping import Plateau
from neonym.training.load import encode_images, load_frozen, make_loader
from neonym.training.loop import run_steps
from neonym.training.resume import Beginning, find_beginning
from neonym.training.session import Session
from neonym.training.setup import on_device, start_accelerator, weight_dtype
from neonym.training.state import TrainState, restore
from neonym.training.verdict import Verdict, make_verdict


@dataclass
class Result:
    """What a run leaves. `signal` is the signal that stopped it, 0 if it went to its end."""

    files: list[Path] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    steps: int = 0
    signal: int = 0


def train_plan(plan: TrainingPlan, events: Dispatcher, stop: Stop) -> Result:
    """Train a run without errors. Listeners hear of it in the main process only.

    Raises UserError; nothing is written then, unless the run has begun.
    """
    notes: list[str] = []
    plan = replace(plan, run=on_device(plan.run, plan.source, notes.append))
    accelerator = start_accelerator(plan.run, notes.append)
    events = events if accelerator.is_main_process else Dispatcher()
    for note in [*notes, *(f"{problem.severity}: {problem}" for problem in plan.problems)]:
        events.note(note)
    with accelerator.main_process_first():
        plan = replace(plan, source=with_weights(plan.source, weight_dtype(accelerator) != torch.float32))
    store = CheckpointStore(plan)
    with store.open() if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        beginning = find_beginning(plan, store)
        for note in beginning.notes:
            events.note(note)
        if beginning.finished and beginning.saved is not None:
            events.result(beginning.finished)
            return Result(store.final_files(), steps=beginning.saved.step)
        try:
            events.emit(Opened(store.folder, tuple(plan.tokens)))
            return train_opened(plan, store, beginning, accelerator, events, stop)
        except BaseException as error:  # Ctrl-C, too: listeners end with the run
            events.emit(Failed(str(error) or type(error).__name__))
            raise


def train_opened(
    plan: TrainingPlan, store: CheckpointStore, beginning: Beginning, accelerator: Accelerator, events: Dispatcher, stop: Stop
) -> Result:  # fmt: skip
    """Load what the run needs, and train. A stop before the first step leaves everything as it was. Raises UserError."""
    try:
        with stop.at_once():
            model = load_frozen(plan, accelerator, events)
            latents = encode_images(plan, model, events, stop)
        state = first_state(plan, model, beginning, accelerator)
        loader = make_loader(plan, latents, model, accelerator)
        session = Session(plan, model, state, store, loader, accelerator, events, stop)
    except StopRequested as request:
        step = beginning.saved.step if beginning.saved else 0
        events.note("stopped before the first step; run the same command again")
        events.emit(Stopped(step, request.signal))
        return Result(steps=step, signal=request.signal)
    try:
        return follow(session)
    except StopRequested as request:
        return stopped(session, request.signal)


def first_state(plan: TrainingPlan, model: Model, beginning: Beginning, accelerator: Accelerator) -> TrainState:
    """Return the state before the first step of this run: a new one, or the saved one that it goes on from."""
    settings = plan.run.eval
    plateau = Plateau(settings.early_stop_window, settings.early_stop_threshold) if settings.early_stop else None
    origin, concepts = plan.run.save.resume or "", add_concepts(model, plan)
    state = TrainState(concepts, beginning.fingerprint, plan.milestones.first, origin, accelerator.scaler, plateau)
    if beginning.saved is not None:
        restore(state, beginning.saved)
    return state


def follow(run: Session) -> Result:
    """Train to the end and write what came of it. Raises StopRequested, and UserError if another process is gone."""
    plans = [concept.samples for concept in run.plan.concepts]
    samples = sum(sum(len(images) for _, images in plan.groups) / plan.steps_per_epoch for plan in plans)
    run.events.emit(Started(run.state.step, run.milestones.total, run.milestones.steps_per_epoch, samples))
    try:
        begin_evaluations(run)
        sample_due(run)
        return finish(run, run_steps(run))
    except RuntimeError as error:
        if run.accelerator.num_processes == 1 or isinstance(error, torch.OutOfMemoryError):
            raise
        raise without_others(run, error) from error


def stopped(run: Session, signal: int) -> Result:
    """Save the state of the last whole step, from which the same command goes on."""
    step = run.state.step
    if run.is_main:
        run.checks.check_rows()
        run.store.save_last(run.state)
    way = " without --restart" if run.plan.run.save.restart else ""
    run.events.note(f"stopped after step {step}; run the same command again{way} to go on")
    run.events.emit(Stopped(step, signal))
    return Result(steps=step, signal=signal)


def without_others(run: Session, error: RuntimeError) -> UserError:
    """Save what this process has, because another process of the run is gone. Return the error to raise."""
    if run.is_main:
        run.checks.check_rows()
        run.store.save_last(run.state)
    what = f"another process ended, or none answered in time ({str(error).splitlines()[0]}); step {run.state.step} is saved"
    return UserError(what, "training", "Run the same command again to go on")


def finish(run: Session, is_whole: bool) -> Result:
    """Judge the words and write the final files. A run that is not whole can go on. Raises StopRequested, UserError."""
    state, events = run.state, run.events
    run.checks.check_losses()
    run.checks.check_rows()
    if state.plateau is not None:
        for concept, best in zip(state.concepts, state.plateau.best, strict=False):
            concept.chosen = best
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
    run.events.emit(Judged(run.state.step, losses, *lengths_of_words(concepts)))
    return [make_verdict(run.model, *of) for of in zip(concepts, worths, evaluation.shown_on, strict=True)]
