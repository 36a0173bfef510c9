"""Recognise launchers that start training as a child process: `accelerate launch` and `torchrun`.

For every exit code other than 0, they print a traceback of their own below the output of the training, and exit with 1.
"""

import os

MARKS = ("ACCELERATE_DYNAMO_MODE", "TORCHELASTIC_RUN_ID")  # environment variables that only they set


def is_launched() -> bool:
    """Return whether this process was started by a launcher."""
    return any(mark in os.environ for mark in MARKS)
