"""Work that is done every so many steps: evaluations, sample images, files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from neonym.errors import UserError
from neonym.models.room import NoWayBackError
from neonym.preflight.milestones import is_due
from neonym.runs.events import Evaluated, Sampled, Saved
from neonym.runs.outputs import SAMPLE_NOW, SAVE_NOW
from neonym.training.session import Session


def begin_evaluations(run: Session) -> None:
    """Evaluate the initial rows if evaluations are requested, and repeat an evaluation that a stop interrupted."""
    every, state = run.plan.run.eval.eval_every_n_steps, run.state
    if not every:
        return
    start = state.concept.start
    loss = run.with_room(lambda: run.evaluation.loss_of(start))
    figures = norm_and_distance(start, start)
    run.events.emit(evaluated(run.milestones.first, loss, figures, of_start=True))
    if (
        state.early_stopping is not None
        and len(state.early_stopping.history) < state.step // every - run.milestones.first // every
    ):
        evaluate(run)


def evaluate_if_due(run: Session) -> None:
    """Evaluate the word if `--eval_every_n_steps` says so."""
    if is_due(run.plan.run.eval.eval_every_n_steps, run.state.step):
        evaluate(run)


def evaluate(run: Session) -> None:
    """Evaluate the word as it is now. Raises StopRequested between two predictions."""
    state, rows = run.state, run.state.concept.result()
    loss = run.with_room(lambda: run.evaluation.loss_of(rows))
    run.events.emit(evaluated(state.step, loss, norm_and_distance(rows, state.concept.start)))
    if state.early_stopping is not None:
        state.early_stopping.add(loss, rows)


def evaluated(step: int, loss: float, figures: tuple[float, float], of_start: bool = False) -> Evaluated:
    """Return the event of an evaluation. `figures` are the norm of the word's vectors and their distance."""
    norm, distance = figures
    return Evaluated(step, loss, (loss,), (norm,), (distance,), of_start)


def sample_if_due(run: Session) -> None:
    """Generate sample images if they are due. If that fails, emit a warning and continue training."""
    tag = run.sample_renderer.tag(run.state.step, run.milestones)
    if tag is not None and run.is_main:
        sample(run, tag)


def answer_requests(run: Session) -> None:
    """Save the word or generate sample images if a file in the run folder requests it, and remove that file."""
    if not run.is_main:
        return
    done = run.state.step
    if taken(run.plan.run_folder / SAVE_NOW):
        run.checks.check_rows()
        try:
            emit_saved(run, run.store.save_step_in_run_folder(run.state), in_run_folder=True)
        except (UserError, OSError) as error:
            run.events.warn(f"{error} Training continues; files saved earlier are intact.")
    if taken(run.plan.run_folder / SAMPLE_NOW):
        if run.sample_renderer.prompts:
            sample(run, f"{done:06d}")
        else:
            run.events.warn("no sample images: the run has no --sample_prompts")


def taken(request: Path) -> bool:
    """Return whether a request is there, and remove it."""
    try:
        request.unlink()
    except OSError:  # none is there, or the disk fails: a request that stays would be answered in every step
        return False
    return True


def sample(run: Session, tag: str) -> None:
    """Generate sample images. If that fails, emit a warning and continue training."""
    if run.graphs:
        run.graphs.release()  # the decoder needs the memory
    try:
        files = run.sample_renderer.render(run.model, run.state.concept, tag)
    except NoWayBackError:
        raise
    except Exception as error:  # whatever a sampler, a full disk or too small a GPU raises
        run.events.warn(f"no sample images at {tag}: {error}")
        return
    run.events.emit(Sampled(run.state.step, tag, tuple(files), files[-1]))


def save_if_due(run: Session) -> None:
    """Save embedding files and states if they are due. If that fails, emit a warning and continue training.

    Raises UserError if the rows are not finite.
    """
    done, milestones, store = run.state.step, run.milestones, run.store
    epoch, is_state = milestones.saves_epoch(done), is_due(run.plan.run.save.state_every_n_steps, done)
    if not run.is_main or not (is_state or epoch or milestones.saves_step(done) or milestones.keeps_step(done)):
        return
    run.checks.check_rows()
    try:
        if milestones.saves_step(done):
            emit_saved(run, store.save_step(run.state))
        if epoch:
            emit_saved(run, store.save_epoch(run.state, epoch, milestones.save_every_n_epochs or 1))
        if milestones.keeps_step(done):
            emit_saved(run, store.save_step_in_run_folder(run.state), in_run_folder=True)
        if is_state:
            store.save_state(run.state)
    except (UserError, OSError) as error:  # a full disk, for example
        run.events.warn(f"{error} Training continues; files saved earlier are intact.")


def emit_saved(run: Session, files: Iterator[Path], in_run_folder: bool = False) -> None:
    """Emit an event for each file as soon as it is written, whether the ones after it can be written or not."""
    for file in files:
        run.events.emit(Saved(run.state.step, file, in_run_folder))


def norm_and_distance(rows: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> tuple[float, float]:
    """Return the mean length of a word's vectors, and their mean distance from `start`.

    Each vector is the concatenation over all encoders, [n,W1+W2].
    """
    now, before = (torch.cat([part.flatten(1) for part in own.values()], dim=1) for own in (rows, start))  # [n,W1+W2]
    return float(now.norm(dim=1).mean()), float((now - before).norm(dim=1).mean())
