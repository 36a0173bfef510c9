"""Recognise launchers that start training as child processes: `accelerate launch` and `torchrun`.

For every exit code other than 0, they print a traceback of their own below the output of the training, and exit with 1.
They end all other processes as soon as one has ended with such a code.
"""

import os

MARKS = ("ACCELERATE_DYNAMO_MODE", "TORCHELASTIC_RUN_ID")  # environment variables that only they set


def is_launched() -> bool:
    """Return whether this process was started by a launcher."""
    return any(mark in os.environ for mark in MARKS)


def is_first() -> bool:
    """Return whether this is the first of the processes of a run, or its only one."""
    return os.environ.get("RANK", "0") == "0"
