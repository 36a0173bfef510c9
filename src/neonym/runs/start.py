"""Starting a run with the listeners that its settings request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from neonym.config.run import RunConfig
from neonym.config.without_effect import tracker_kinds
from neonym.errors import Problem, UserError
from neonym.preflight.plan import TrainingPlan
from neonym.preflight.preflight import preflight
from neonym.runs.dispatcher import Dispatcher
from neonym.runs.event_file import EventFile
from neonym.runs.events import Listener
from neonym.runs.stop import Stop
from neonym.training.ending import Result
from neonym.training.load import KeptModel
from neonym.training.run import train_plans


def train(
    run: RunConfig, listeners: Sequence[Listener] = (), stop: Stop | None = None, known: Sequence[Problem] = ()
) -> Result:
    """Learn the words of `run`, and continue where an earlier call with the same settings stopped.

    Every listener is called with every event of the run, after the event file and the trackers and uploads that the
    settings request. `stop` ends the run after its current step, with its state saved. `known` are problems that were
    already found in the settings. Raises ConfigError with all errors, before anything is written.
    """
    return start_plans(preflight(run, known).complete_plans(), listeners, stop)


def start_plans(plans: Sequence[TrainingPlan], listeners: Sequence[Listener] = (), stop: Stop | None = None) -> Result:
    """Train the words of one run with the default and the given listeners, as `train` does.

    Raises UserError if no word could be trained.
    """
    outcomes = start_together(plans, lambda _: listeners, stop, plans[0].run.compute.lanes)
    return joint_result([plan.token for plan in plans], outcomes)


def start_together(
    plans: Sequence[TrainingPlan],
    listeners: Callable[[int], Sequence[Listener]],
    stop: Stop | None = None,
    lanes: int | None = None,
    kept: KeptModel | None = None,
) -> list[Result | UserError]:
    """Train words with one model as `train_plans` does, each with the default listeners and its own."""
    dispatchers, is_alone = [], len(plans) == 1
    for index, plan in enumerate(plans):
        events, run = Dispatcher(word=plan.token), plan.run if is_alone else logged_apart(plan)
        events.listeners = [*default_listeners(run, events, is_alone), *listeners(index)]
        dispatchers.append(events)
    return train_plans(plans, dispatchers, stop or Stop(), lanes, kept)


def joint_result(tokens: Sequence[str], outcomes: Sequence[Result | UserError]) -> Result:
    """Return the outcomes of several words as one result. Raises the first error if every word ended with one."""
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    failures = {token: own for token, own in zip(tokens, outcomes, strict=True) if isinstance(own, UserError)}
    if not results:
        raise next(iter(failures.values()))
    return Result(
        files=[file for result in results for file in result.files],
        verdicts=[verdict for result in results for verdict in result.verdicts],
        steps=max(result.steps for result in results),
        signal=max(result.signal for result in results),
        was_finished=all(result.was_finished for result in results) and not failures,
        failures=failures,
    )


def logged_apart(plan: TrainingPlan) -> RunConfig:
    """Return the settings of a word beside which others learn, whose logs are named after it."""
    log = plan.run.log
    names = {"log_prefix": f"{log.log_prefix or ''}{plan.token}-"}
    names["wandb_run_name"] = f"{log.wandb_run_name}-{plan.token}" if log.wandb_run_name else plan.token
    return plan.run.model_copy(update={"log": log.model_copy(update=names)})


def default_listeners(run: RunConfig, events: Dispatcher, is_alone: bool = True) -> Iterator[Listener]:
    """Yield the listeners that every run has, and those that its settings request.

    Unless a word `is_alone`, its trackers do not share their logs with those of others.
    """
    yield EventFile(events)
    if run.hub.huggingface_repo_id is not None:
        from neonym.runs.hub import HubUploads

        yield HubUploads(run.hub, events)
    if tracker_kinds(run.log):
        from neonym.runs.trackers import Trackers

        yield Trackers(run, events, is_alone)
