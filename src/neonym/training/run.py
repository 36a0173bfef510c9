"""A training run from the plans of its words to their files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from neonym.errors import UserError
from neonym.preflight.plan import TrainingPlan
from neonym.runs.dispatcher import Dispatcher
from neonym.runs.events import Failed
from neonym.runs.stop import Stop
from neonym.training.ending import Result
from neonym.training.lane import Lane
from neonym.training.lanes import Lanes, lost_process_error
from neonym.training.load import KeptModel
from neonym.training.memory import with_fit
from neonym.training.out_of_memory import out_of_memory_error
from neonym.training.precision import with_precision
from neonym.training.repeatable import repeatable
from neonym.training.setup import start_accelerator


def train_plans(
    plans: Sequence[TrainingPlan],
    events: Sequence[Dispatcher],
    stop: Stop,
    lanes: int | None = None,
    kept: KeptModel | None = None,
) -> list[Result | UserError]:
    """Train the words of these plans, `lanes` at a time: open, resume, train, judge and write each.

    The plans have the same model, objective and compute settings, so that words learn together; those for which `--fit`
    chooses another form of the weights learn after the others. A word that ends with an error of its own does not
    disturb the others, and its outcome is that error; the error of the only word is raised. Each dispatcher gets the
    events of one word, in the main process only. Raises UserError; unless training has started, nothing is written
    then. The model is taken from `kept` if it is there, and stays there.
    """
    notes: list[str] = []
    plans = [replace(plan, run=with_precision(plan.run, plan.source, notes.append)) for plan in plans]
    accelerator = start_accelerator(plans[0].run, notes.append)
    plans = with_fit(plans, accelerator, notes.append)
    own = [
        Lane(plan, word_events if accelerator.is_main_process else Dispatcher(), notes if index == 0 else [])
        for index, (plan, word_events) in enumerate(zip(plans, events, strict=True))
    ]
    kept = KeptModel() if kept is None else kept
    try:
        for together in of_one_model(own):
            train_lanes(Lanes(together, accelerator, stop, lanes, kept, is_only=len(own) == 1))
    except BaseException as error:  # including KeyboardInterrupt: listeners end with the run
        for lane in own:
            if lane.outcome is None:
                lane.events.emit(Failed(str(error) or type(error).__name__))
        raise
    finally:
        for lane in own:
            lane.locks.close()
    return [lane.outcome for lane in own if lane.outcome is not None]


def of_one_model(lanes: Sequence[Lane]) -> Iterable[list[Lane]]:
    """Return the lanes in groups that keep the weights of the model in the same form, as each word alone would."""
    groups: dict[str, list[Lane]] = {}
    for lane in lanes:
        groups.setdefault(repr(lane.plan.run.compute), []).append(lane)
    return groups.values()


def train_lanes(together: Lanes) -> None:
    """Train words with one model to their ends. Raises UserError, after the states of all words are saved."""
    try:
        with repeatable(together.lanes[0].plan.run.compute.deterministic):
            together.train()
    except torch.OutOfMemoryError as error:
        raise out_of_memory_error(together, error) from error
    except RuntimeError as error:
        if together.accelerator.num_processes == 1 or not together.runs:
            raise
        raise lost_process_error(together, error) from error
