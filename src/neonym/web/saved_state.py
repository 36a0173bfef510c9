"""The states in a run folder, from which a run goes on."""

from __future__ import annotations

import json
from pathlib import Path

from neonym.web.library import read_header

STATES = ("state.safetensors", "finished.safetensors")  # of a run that was interrupted, and of one that is finished


def saved_step(run_folder: Path) -> int:
    """Return the step from which a run goes on if it is ended now, 0 if it begins again."""
    given = read_header(run_folder / STATES[0]).get("__metadata__")
    try:
        return int(json.loads(given["neonym"])["step"]) if isinstance(given, dict) else 0
    except (KeyError, TypeError, ValueError, RecursionError):
        return 0


def has_state(run_folder: Path) -> bool:
    """Return whether a run folder has a state."""
    return any((run_folder / name).is_file() for name in STATES)
