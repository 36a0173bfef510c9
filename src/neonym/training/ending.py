"""The ends of a word's training: judged and written, stopped with its state saved, or finished by an earlier run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from neonym.errors import UserError
from neonym.runs.dispatcher import Dispatcher
from neonym.runs.events import Finished, Judged, Judging, Stopped
from neonym.training.checkpoint import CheckpointStore
from neonym.training.periodic import norm_and_distance
from neonym.training.session import Session
from neonym.training.verdict import Verdict, make_verdict


@dataclass
class Result:
    """The outcome of a run. `signal` is the signal that stopped it, 0 if it reached its end.

    `was_finished` says that an earlier call had finished the run, so that nothing was done. `failures` are the words of
    a run with several that ended with an error of their own, while the others went on.
    """

    files: list[Path] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    steps: int = 0
    signal: int = 0
    was_finished: bool = False
    failures: dict[str, UserError] = field(default_factory=dict)


def report_finished(store: CheckpointStore, report: str, step: int, events: Dispatcher) -> Result:
    """Return the file and the verdict of a run that had finished before."""
    verdicts = store.verdicts() or []
    events.result(report)
    events.emit(Finished(step, tuple(store.finished_files()), tuple(verdict.as_dict() for verdict in verdicts)))
    return Result([store.file()], verdicts, step, was_finished=True)


def stop_before_first_step(step: int, signal: int, events: Dispatcher) -> Result:
    """Return the result of a run that was stopped before its first step, which leaves no trace.

    Without a signal, the time of `--max_train_time` was up.
    """
    reason = "stopped" if signal else "the time of --max_train_time was up"
    events.note(f"{reason} before the first step; run the same command again")
    events.emit(Stopped(step, signal))
    return Result(steps=step, signal=signal)


def save_and_stop(run: Session, signal: int) -> Result:
    """Save the state after the last complete step, from which the same command continues."""
    with run.together():
        save_last(run)
    step, way = run.state.step, " without --restart" if run.plan.run.save.restart else ""
    run.events.note(f"stopped after step {step}; run the same command again{way} to continue")
    run.events.emit(Stopped(step, signal))
    return Result(steps=step, signal=signal)


def save_last(run: Session) -> None:
    """Save the state after the last complete step. Raises UserError if the rows are not finite."""
    if run.is_main:
        run.checks.check_rows()
        run.store.save_last(run.state)


def finish(run: Session, is_whole: bool) -> Result:
    """Judge the word and write its final files.

    A run that is not whole, because its time was up, can be continued. Raises StopRequested and UserError.
    """
    state, events = run.state, run.events
    run.checks.check_losses()
    run.checks.check_rows()
    if state.early_stopping is not None:
        state.concept.best_rows = state.early_stopping.best or None
    verdict = judge_word(run)
    table = verdict.as_dict()
    with run.together():
        files = run.store.finish(state, table, is_whole) if run.is_main else []
    for file in files[:1]:
        events.result("\n".join([*verdict.lines(), f"  file: {file}"]))
    events.emit(Finished(state.step, tuple(files), (table,)))
    return Result(files[:1], [verdict], state.step)


def judge_word(run: Session) -> Verdict:
    """Return the verdict on the word. Raises StopRequested between two predictions."""
    concept, evaluation = run.state.concept, run.evaluation
    worth = evaluation.worth(lambda done, total: run.events.emit(Judging(done, total)))
    norm, distance = norm_and_distance(concept.result(), concept.start)
    run.events.emit(Judged(run.state.step, (worth.loss_after,), (norm,), (distance,)))
    return make_verdict(run.model, concept, worth, evaluation.judged_on)
