"""A request to stop a run, which anyone may make."""

from __future__ import annotations

import signal as signals
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident


class StopRequested(BaseException):
    """A run was asked to stop. It is no Exception, so that no library takes it for an error of its own."""

    def __init__(self, signal: int):
        super().__init__(signal)
        self.signal = signal


class Stop:
    """A request to stop a run after its current step, with its state saved.

    Any thread, listener or signal handler may make it. The first request counts.
    """

    def __init__(self) -> None:
        self.signal = 0  # that asked for it, 0: nobody did
        self._thread = 0  # that is in a section which is left at once

    @property
    def requested(self) -> bool:
        """Return whether somebody asked the run to stop."""
        return self.signal != 0

    def request(self, signal: int = signals.SIGTERM) -> None:
        """Ask the run to stop. `signal` is the one that `Result.signal` shall name."""
        self.signal = self.signal or int(signal)  # no lock: a signal handler may interrupt this very line

    def request_at_once(self, signal: int) -> None:
        """Ask the run to stop, from a signal handler. Raises StopRequested where nothing would be lost by it."""
        self.request(signal)
        if self._thread == get_ident():
            raise StopRequested(self.signal)

    def check(self) -> None:
        """Raise StopRequested if somebody asked the run to stop."""
        if self.requested:
            raise StopRequested(self.signal)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Mark a section that has nothing to save, such as loading a model: a signal ends it where it is."""
        self.check()
        self._thread = get_ident()
        try:
            self.check()  # asked for since the first look
            yield
        finally:
            self._thread = 0
