"""A training run from Python: what is wrong with it, and the run itself."""

from __future__ import annotations

from neonym.api.wording import all_in_python, speaking_python
from neonym.config.run import RunConfig
from neonym.errors import Problem
from neonym.preflight.prepare import prepare
from neonym.training.run import Result
from neonym.training.run import train as train_run


def check(run: RunConfig) -> list[Problem]:
    """Return everything that is wrong or doubtful about a run, in seconds: settings, images, captions, token ids.

    No weight is read and nothing is written. A run with a problem of the severity `error` does not train.
    """
    with speaking_python():
        return all_in_python(prepare(run, run.notes).problems)


def train(run: RunConfig) -> Result:
    """Learn the words of `run` and return the files and a verdict on each word.

    Resuming is calling it again. Raises UserError before anything is written.
    """
    with speaking_python():
        return train_run(run, known=run.notes)
