"""Requests to stop a run, from any thread, listener or signal handler."""

from __future__ import annotations

import signal as signals
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident


class StopRequested(BaseException):
    """The exception that ends a run on request.

    It is not an `Exception`, so that no library mistakes it for an error of its own.
    """

    def __init__(self, signal: int):
        super().__init__(signal)
        self.signal = signal


class Stop:
    """A request to stop a run after its current step, with its state saved.

    Any thread, listener or signal handler may make it. Only the first request counts.
    """

    def __init__(self) -> None:
        self.signal = 0  # the signal of the request; 0: none was made
        self._thread = 0  # the thread in a section that a stop ends at once

    @property
    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self.signal != 0

    def request(self, signal: int = signals.SIGTERM) -> None:
        """Request that the run stop. `signal` becomes `Result.signal`. Raises ValueError for 0, which means no signal."""
        if not signal:
            raise ValueError("0 is not the number of a signal")
        self.signal = self.signal or int(signal)  # no lock: a signal handler may interrupt this very line

    def request_at_once(self, signal: int) -> None:
        """Request a stop from a signal handler. Raises StopRequested in a section that `at_once` marks."""
        self.request(signal)
        if self._thread == get_ident():
            raise StopRequested(self.signal)

    def check(self) -> None:
        """Raise StopRequested if a stop was requested."""
        if self.requested:
            raise StopRequested(self.signal)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Mark a section that has nothing to save, such as loading a model: a signal ends it immediately."""
        self.check()
        self._thread = get_ident()
        try:
            self.check()  # requested since the first check
            yield
        finally:
            self._thread = 0
