"""Training from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from neonym.api.wording import in_python, python_wording, text_in_python
from neonym.config.run import RunConfig
from neonym.errors import ConfigError, Problem, UserError
from neonym.preflight.plan import TrainingPlan
from neonym.preflight.preflight import preflight
from neonym.runs import start
from neonym.runs.events import Event, Failed, Finished, Listener, Noted
from neonym.runs.stop import Stop
from neonym.training.ending import Result
from neonym.training.load import KeptModel


def train(run: RunConfig, listeners: Sequence[Listener] = (), stop: Stop | None = None) -> Result:
    """Learn the words of `run`, and return their files and a verdict on each.

    Args:
        run: The settings. A second call with the same settings continues where the first one stopped.
        listeners: Functions that are called with every event, in the thread of the run.
        stop: A request to stop. Once it is made, the run ends after its current step, with its state saved.

    Raises ConfigError with all errors that `check` finds, before anything is written, and other kinds of UserError
    later.
    """
    with python_wording():
        result = start.train(run, [worded_for_python(listener) for listener in listeners], stop, run.notes)
        return result_in_python(result)


def train_words(
    runs: Sequence[RunConfig],
    *,
    listeners: Callable[[int], Sequence[Listener]] | None = None,
    stop: Stop | None = None,
    lanes: int | None = None,
    kept: KeptModel | None = None,
) -> list[Result | UserError]:
    """Learn one word for each of `runs`, and return the result of each, or the error that ended it.

    Runs with the same model, objective and compute settings learn together: the model is loaded once, and micro-batches
    hold samples of several words. Each word becomes what it would have become alone, and continues where an earlier
    call stopped. A word that ends with an error does not disturb the others.

    Args:
        runs: The settings of each word.
        listeners: A function of the index of a run that returns the listeners of its events.
        stop: A request to stop. Once it is made, every word ends after its current step, with its state saved.
        lanes: How many words learn at a time. By default, as many as fill a micro-batch: as many samples as memory
            carries, up to 16 on a CPU and 64 on a GPU.
        kept: A place that keeps the last model loaded for the next call.
    """
    of_run = listeners or (lambda _: ())
    outcomes: dict[int, Result | UserError] = {}
    groups: dict[str, list[tuple[int, TrainingPlan]]] = {}
    for index, run in enumerate(runs):
        try:
            with python_wording():
                plan = only_plan(run)
                groups.setdefault(shared_settings(run), []).append((index, plan))
        except UserError as error:
            outcomes[index] = error
    for group in groups.values():
        indices, plans = zip(*group, strict=True)
        try:
            found = start.start_together(
                plans,
                lambda number, of=indices: [worded_for_python(own) for own in of_run(of[number])],
                stop,
                lanes,
                kept,
            )
        except UserError as error:  # of the model, or of the only word
            found = [error] * len(plans)
        outcomes |= zip(indices, map(outcome_in_python, found), strict=True)
    return [outcomes[index] for index in range(len(runs))]


def only_plan(run: RunConfig) -> TrainingPlan:
    """Return the plan of a run that teaches a single word. Raises ConfigError."""
    plan, *others = preflight(run, run.notes).complete_plans()
    if others:
        what = f"there are {1 + len(others)} words in this run, but one is expected"
        raise ConfigError([Problem("error", what, "dataset_config", "Give each word a run of its own")])
    return plan


def shared_settings(run: RunConfig) -> str:
    """Return the settings that words which learn together have in common, as text."""
    return repr((run.model, run.objective, run.compute, run.concept.train_encoders))


def outcome_in_python(outcome: Result | UserError) -> Result | UserError:
    """Return the outcome of a word as it is worded for Python."""
    if isinstance(outcome, UserError):
        outcome.reword(in_python)
        return outcome
    return result_in_python(outcome)


def result_in_python(result: Result) -> Result:
    """Return a result with advice and errors as they are worded for Python."""
    verdicts = [replace(verdict, advice=text_in_python(verdict.advice)) for verdict in result.verdicts]
    for error in result.failures.values():
        error.reword(in_python)
    return replace(result, verdicts=verdicts)


def worded_for_python(listener: Listener) -> Listener:
    """Return a listener that receives texts as they are worded for Python."""

    def reworded(event: Event) -> object:
        if isinstance(event, Noted):
            event = replace(event, text=text_in_python(event.text))
        elif isinstance(event, Failed):
            event = replace(event, error=text_in_python(event.error))
        elif isinstance(event, Finished):
            event = replace(event, verdicts=tuple(map(verdict_in_python, event.verdicts)))
        return listener(event)

    reworded.__qualname__ = getattr(listener, "__qualname__", type(listener).__name__)  # shown if the listener raises
    return reworded


def verdict_in_python(verdict: Mapping[str, object]) -> Mapping[str, object]:
    """Return the verdict of an event with its advice as it is worded for Python."""
    return {**verdict, "advice": text_in_python(str(verdict["advice"]))}
