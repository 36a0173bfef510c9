"""Dispatching events from a run to its listeners."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from neonym.errors import RefuseRun
from neonym.runs.events import Event, Level, Listener, Noted, Opened


class Dispatcher:
    """The caller of every listener with every event of a word, in order.

    If a listener raises, a warning is emitted once, and neither the run nor the other listeners are disturbed. Only
    `RefuseRun` at `Opened` is raised further.
    """

    def __init__(self, listeners: Iterable[Listener] = (), word: str = ""):
        self.listeners, self.word = list(listeners), word
        self._failed: list[Listener] = []

    def emit(self, event: Event) -> None:
        """Call every listener. Raises RefuseRun if one refuses the run."""
        event = replace(event, word=self.word)
        for listener in self.listeners:
            try:
                listener(event)
            except Exception as error:  # a listener may raise anything
                if isinstance(error, RefuseRun) and isinstance(event, Opened):
                    raise
                self._report_failure(listener, error)

    def note(self, text: str, level: Level = "info") -> None:
        """Emit a note."""
        self.emit(Noted(level, text))

    def warn(self, text: str) -> None:
        """Emit a note with the level "warning", whose text begins with that word."""
        self.note(f"warning: {text}", "warning")

    def result(self, text: str) -> None:
        """Emit a note with the level "result", which is always shown."""
        self.note(text, "result")

    def _report_failure(self, listener: Listener, error: Exception) -> None:
        """Emit a warning about a listener that raised, unless it has raised before."""
        if any(listener is other for other in self._failed):
            return
        self._failed.append(listener)
        name = getattr(listener, "__qualname__", type(listener).__name__)
        self.warn(f"the listener {name} failed ({type(error).__name__}: {error}). Training continues.")
