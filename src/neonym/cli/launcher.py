"""Recognise launchers, which start training as a child process: `accelerate launch` and `torchrun`.

For every exit code but 0 they print a traceback of their own, below everything that the training printed, and exit
with 1.
"""

import os

MARKS = ("ACCELERATE_DYNAMO_MODE", "TORCHELASTIC_RUN_ID")  # variables that only they set, for their children


def is_launched() -> bool:
    """Return whether this process was started by a launcher."""
    return any(mark in os.environ for mark in MARKS)
