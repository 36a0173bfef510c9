"""Everything that happens between two steps of a word: its event, and the periodic work that is due."""

from __future__ import annotations

from typing import Literal

import torch

from neonym.optim.optimizers import found_rate, rate_now
from neonym.runs.events import Stepped
from neonym.training.concept import Concept
from neonym.training.periodic import answer_requests, evaluate_if_due, sample_if_due, save_if_due
from neonym.training.session import Session

Ending = Literal["end", "time up"]


def after_step(run: Session, loss: torch.Tensor) -> Ending | None:
    """Do what is due after a step whose loss [] is given, and return whether it was the last one.

    A run whose time is up can be continued. Raises StopRequested during an evaluation, and UserError when a finite
    check fails.
    """
    state, events, total = run.state, run.events, run.milestones.total
    run.checks.watch(state.step - 1, loss)
    events.emit(Stepped(state.step, run.losses.add(loss[None]), *rates_of(state.concept)))
    evaluate_if_due(run)
    with run.together():  # the main process alone writes files
        sample_if_due(run)
        save_if_due(run)
        answer_requests(run)
    stops_early, is_late = run.ends()
    if is_late and state.step < total:
        events.note(f"the time of --max_train_time was up after step {state.step} of {total}")
        return "time up"
    if stops_early:
        events.note(f"the evaluation loss has stopped changing: training ended after step {state.step} of {total}")
    return "end" if stops_early or state.step >= total else None


def rates_of(concept: Concept) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the learning rate of a word, and `d*lr` if its optimizer finds its own rate."""
    found = found_rate(concept.optimizer, concept.record)
    return (rate_now(concept.optimizer, concept.record),), () if found is None else (found,)
