"""The problems of a run, found before it starts. This module does not need torch."""

from __future__ import annotations

from neonym.api.wording import all_in_python, python_wording
from neonym.config.run import RunConfig
from neonym.errors import Problem
from neonym.preflight.images import similar_image_warnings
from neonym.preflight.preflight import preflight


def check(run: RunConfig) -> list[Problem]:
    """Return the problems of a run: errors, warnings and notes about its settings, images, captions and token ids.

    This takes seconds: no weights are read, and nothing is written. A run with a problem of severity `error` does not
    train.
    """
    with python_wording():
        found = preflight(run, run.notes)
        return all_in_python([*found.problems, *similar_image_warnings(found.records)])
