"""A training run from the plans of its words to their files."""

from __future__ import annotations

from collections.abc import Sequence
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
    """Train the words of these plans with one model, `lanes` at a time: open, resume, train, judge and write each.

    The plans have the same model, objective and compute settings. A word that ends with an error of its own does not
    disturb the others, and its outcome is that error; the error of the only word is raised. Each dispatcher gets the
    events of one word, in the main process only. Raises UserError; unless training has started, nothing is written
    then. The model is taken from `kept` if it is there, and stays there.
    """
    notes: list[str] = []
    plans = [replace(plan, run=with_precision(plan.run, plan.source, notes.append)) for plan in plans]
    accelerator = start_accelerator(plans[0].run, notes.append)
    fitted = with_fit(plans[0], accelerator, notes.append, plans[1:])
    notes = list(dict.fromkeys(notes))
    own = [
        Lane(
            replace(plan, run=plan.run.model_copy(update={"compute": fitted.run.compute}), at_once=fitted.at_once),
            word_events if accelerator.is_main_process else Dispatcher(),
            notes if index == 0 else [],
        )
        for index, (plan, word_events) in enumerate(zip(plans, events, strict=True))
    ]
    together = Lanes(own, accelerator, stop, lanes, kept)
    try:
        try:
            with repeatable(plans[0].run.compute.deterministic):
                together.train()
        except torch.OutOfMemoryError as error:
            raise out_of_memory_error(together, error) from error
        except RuntimeError as error:
            if accelerator.num_processes == 1 or not together.runs:
                raise
            raise lost_process_error(together, error) from error
        except UserError:  # of one of several words, if there are several processes
            together.save_all()  # the others
            raise
    except BaseException as error:  # including KeyboardInterrupt: listeners end with the run
        for lane in own:
            if lane.outcome is None:
                lane.events.emit(Failed(str(error) or type(error).__name__))
        raise
    finally:
        for lane in own:
            lane.locks.close()
    return [lane.outcome for lane in own if lane.outcome is not None]
