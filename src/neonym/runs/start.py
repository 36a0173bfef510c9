"""Starting a run with the listeners that its settings request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from neonym.config.run import RunConfig
from neonym.config.without_effect import tracker_kinds
from neonym.errors import Problem
from neonym.preflight.plan import TrainingPlan
from neonym.preflight.preflight import preflight
from neonym.runs.dispatcher import Dispatcher
from neonym.runs.event_file import EventFile
from neonym.runs.events import Listener
from neonym.runs.stop import Stop
from neonym.training.run import Result, train_plan


def train(
    run: RunConfig, listeners: Sequence[Listener] = (), stop: Stop | None = None, known: Sequence[Problem] = ()
) -> Result:
    """Learn the words of `run`, and continue where an earlier call with the same settings stopped.

    Every listener is called with every event of the run, after the event file and the trackers and uploads that the
    settings request. `stop` ends the run after its current step, with its state saved. `known` are problems that were
    already found in the settings. Raises ConfigError with all errors, before anything is written.
    """
    return start_plan(preflight(run, known).complete_plan(), listeners, stop)


def start_plan(plan: TrainingPlan, listeners: Sequence[Listener] = (), stop: Stop | None = None) -> Result:
    """Train a complete plan with the default and the given listeners, as `train` does. Raises UserError."""
    events = Dispatcher()
    events.listeners = [*default_listeners(plan.run, events), *listeners]
    return train_plan(plan, events, stop or Stop())


def default_listeners(run: RunConfig, events: Dispatcher) -> Iterator[Listener]:
    """Yield the listeners that every run has, and those that its settings request."""
    yield EventFile(events)
    if run.hub.huggingface_repo_id is not None:
        from neonym.runs.hub import HubUploads

        yield HubUploads(run.hub, events)
    if tracker_kinds(run.log):
        from neonym.runs.trackers import Trackers

        yield Trackers(run, events)
