"""The training loop: a step, its event, and the periodic work that is due after it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from neonym.config.run import RunConfig
from neonym.optim.optimizers import found_rate, rate_now
from neonym.runs.events import Stepped
from neonym.training.concept import Concept
from neonym.training.periodic import answer_requests, evaluate_if_due, sample_if_due, save_if_due
from neonym.training.session import Session
from neonym.training.setup import objective_of
from neonym.training.step import train_step


def run_steps(run: Session) -> bool:
    """Train until the last step, early stopping or the time limit. Return whether the run is finished.

    A run that reached its time limit is not: it can be continued. Raises StopRequested after a step, and UserError when
    a finite check fails.
    """
    objective, deadline = objective_of(run.plan.run, run.plan.source), deadline_of(run.plan.run)
    state, events, total = run.state, run.events, run.milestones.total
    for work in run.loader.steps(state.step, state.step if run.stops_early else total):
        losses = train_step(run.model, state.concepts, work, objective, run.accelerator)  # [N], on the device
        state.step = work.step + 1
        run.checks.watch(work, losses)
        events.emit(Stepped(state.step, run.losses.add(losses), *rates_of(state.concepts)))
        evaluate_if_due(run)
        sample_if_due(run)
        save_if_due(run)
        answer_requests(run)
        # whether the run ends here: all processes must agree
        stops_early = run.agree(run.stops_early)
        if not stops_early and state.step < total:
            run.check_stop()
        if run.agree(time.monotonic() > deadline) and state.step < total:
            events.note(f"the time of --max_train_time was up after step {state.step} of {total}")
            return False
        if stops_early:
            events.note(f"the evaluation loss has stopped changing: training ended after step {state.step} of {total}")
            break
    return True


def rates_of(concepts: Sequence[Concept]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the learning rate of each word, and `d*lr` of each word whose optimizer finds its own rate."""
    found = (found_rate(concept.optimizer, concept.record) for concept in concepts)
    rates = tuple(rate_now(concept.optimizer, concept.record) for concept in concepts)
    return rates, tuple(rate for rate in found if rate is not None)


def deadline_of(run: RunConfig) -> float:
    """Return the time on the monotonic clock at which `--max_train_time` is up; infinity without the setting."""
    minutes = run.optim.max_train_time
    return float("inf") if minutes is None else time.monotonic() + 60 * minutes
