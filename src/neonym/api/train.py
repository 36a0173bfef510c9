"""Training from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from neonym.api.wording import python_wording, text_in_python
from neonym.config.run import RunConfig
from neonym.errors import NeonymError
from neonym.runs import start
from neonym.runs.events import Event, Failed, Finished, Listener, Noted
from neonym.runs.stop import Stop
from neonym.training.run import Result


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
        verdicts = [replace(verdict, advice=text_in_python(verdict.advice)) for verdict in result.verdicts]
        return replace(result, verdicts=verdicts)


def train_words(
    runs: Sequence[RunConfig],
    *,
    listeners: Callable[[int], Sequence[Listener]] | None = None,
    stop: Stop | None = None,
    lanes: int | None = None,
) -> list[Result | NeonymError]:
    """Train one word per RunConfig with one loaded model (all share model, objective and compute settings).

    Return, in order, each run's Result, or the error that ended it while the others went on.

    Args:
        runs: The settings of each word, each with a run folder of its own.
        listeners: A function that returns the listeners of the run with this index.
        stop: A request to stop. Once it is made, every run ends after its current step, with its state saved.
        lanes: The number of words that train at once (default: what the memory of the device carries).
    """
    del lanes
    stop = stop or Stop()
    results: list[Result | NeonymError] = []
    for index, run in enumerate(runs):
        try:
            results.append(train(run, listeners(index) if listeners else (), stop))
        except NeonymError as error:
            results.append(error)
        except Exception as error:  # libraries raise anything
            results.append(NeonymError(f"{type(error).__name__}: {error}"))
    return results


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
