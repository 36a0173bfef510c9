"""Handle Ctrl-C and SIGTERM during a run: the current step is finished and the state is saved first."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from neonym.runs.stop import Stop


@contextmanager
def stopping(stop: Stop) -> Iterator[None]:
    """Make the first Ctrl-C or SIGTERM in the block request a stop, and the second one exit at once."""
    numbers: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        numbers.append(number)
        if len(numbers) > 1:
            os._exit(128 + number)
        stop.request_at_once(number)
        print("\nstopping after this step; interrupt again to stop at once", file=sys.stderr)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
