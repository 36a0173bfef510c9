"""The way of an event from a run to its listeners."""

from __future__ import annotations

from collections.abc import Iterable

from neonym.errors import UserError
from neonym.runs.events import Event, Listener, Noted, Opened


class Dispatcher:
    """Calls every listener with every event, in order.

    A listener that raises is noted once, and neither the run nor the other listeners are disturbed. Only a `UserError`
    at `Opened` is passed on: it says that the run should not begin.
    """

    def __init__(self, listeners: Iterable[Listener] = ()):
        self.listeners = list(listeners)
        self._failed: list[Listener] = []

    def emit(self, event: Event) -> None:
        """Call every listener. Raises UserError if one refuses the run."""
        for listener in self.listeners:
            try:
                listener(event)
            except Exception as error:  # whatever a listener does wrong
                if isinstance(error, UserError) and isinstance(event, Opened):
                    raise
                self._report_failure(listener, error)

    def note(self, text: str) -> None:
        """Emit a note; a text that begins with "warning" is one."""
        self.emit(Noted("warning" if text.startswith("warning") else "info", text))

    def result(self, text: str) -> None:
        """Emit a note that is shown whatever is left out."""
        self.emit(Noted("result", text))

    def _report_failure(self, listener: Listener, error: Exception) -> None:
        if any(listener is other for other in self._failed):
            return
        self._failed.append(listener)
        name = getattr(listener, "__qualname__", type(listener).__name__)
        self.note(f"warning: the listener {name} failed ({type(error).__name__}: {error}). The training goes on.")
