"""The event file, `events.jsonl`: every event of a run as a line of JSON. docs/events.md describes it."""

from __future__ import annotations

import time
from pathlib import Path

from neonym.io.atomic import is_alone_in
from neonym.io.json import as_json
from neonym.runs.dispatcher import Dispatcher
from neonym.runs.events import Encoded, Event, Judging, Opened, Stepped
from neonym.runs.outputs import EVENTS

FLUSH_SECONDS = 1.0  # at most between a step and its line
PROGRESS_SECONDS = 5.0  # at least between two lines of progress


class EventFile:
    """A listener that appends the events of a run to the event file in its folder.

    Nothing is written before `Opened`, nor into a folder that no longer belongs to this run. A full disk does not stop
    the run.
    """

    def __init__(self, events: Dispatcher):
        self.events = events  # receives a warning if the file cannot be written
        self.folder: Path | None = None
        self.lines: list[str] = []
        self.steps: list[tuple[float, Stepped]] = []  # steps that are not written yet, with their times
        self.flushed = self.progressed = time.monotonic()
        self.is_broken = False

    def __call__(self, event: Event) -> None:
        """Write an event, now or together with the next ones."""
        now, seconds = time.time(), time.monotonic()
        if isinstance(event, Stepped):
            self.steps.append((now, event))
            if seconds - self.flushed < FLUSH_SECONDS:
                return
        elif isinstance(event, (Encoded, Judging)):
            if event.done < event.total and seconds - self.progressed < PROGRESS_SECONDS:
                return
            self.progressed = seconds
        self.flushed = seconds
        self.lines += [line_of(*step) for step in self.steps]
        self.steps = []
        if isinstance(event, Opened):
            self.folder = event.folder
            self.lines.insert(0, line_of(now, event))  # earlier notes follow it
        elif not isinstance(event, Stepped):
            self.lines.append(line_of(now, event))
        if self.folder is not None and is_alone_in(self.folder):
            self.write(self.folder / EVENTS)

    def write(self, file: Path) -> None:
        """Append the lines to the file. Emit a warning the first time that this fails."""
        lines, self.lines = self.lines, []
        try:
            with file.open("a", encoding="utf-8", errors="backslashreplace") as opened:
                opened.writelines(line + "\n" for line in lines)
        except OSError as error:
            is_new, self.is_broken = not self.is_broken, True
            if is_new:
                self.events.warn(f"{file} cannot be written ({error.strerror}). Training continues.")


def line_of(time: float, event: Event) -> str:
    """Return an event as JSON: its kind, the `time` in seconds since 1970, its fields."""
    return as_json({"event": event.kind, "time": round(time, 3), **event.facts()})
