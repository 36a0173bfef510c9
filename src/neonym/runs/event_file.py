"""`events.jsonl`: every event of a run as a line of JSON. docs/events.md describes it."""

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
    """Writes the events of a run into its folder, after those of earlier runs there.

    Nothing is written before `Opened`, nor into a folder that is not this run's any more. A full disk stops nothing.
    """

    def __init__(self, events: Dispatcher):
        self.events = events  # that are told if the file cannot be written
        self.folder: Path | None = None
        self.lines: list[str] = []
        self.steps: list[tuple[float, Stepped]] = []  # with the time of each
        self.flushed = self.progressed = time.monotonic()
        self.is_broken = False

    def __call__(self, event: Event) -> None:
        """Write an event, now or with the next ones."""
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
            self.lines.insert(0, line_of(now, event))  # notes from before stand behind it
        elif not isinstance(event, Stepped):
            self.lines.append(line_of(now, event))
        if self.folder is not None and is_alone_in(self.folder):
            self.write(self.folder / EVENTS)

    def write(self, file: Path) -> None:
        """Append the lines to the file. A failure is noted once."""
        lines, self.lines = self.lines, []
        try:
            with file.open("a", encoding="utf-8", errors="backslashreplace") as opened:
                opened.writelines(line + "\n" for line in lines)
        except OSError as error:
            is_new, self.is_broken = not self.is_broken, True
            if is_new:
                self.events.note(f"warning: {file} cannot be written ({error.strerror}). The training goes on.")


def line_of(time: float, event: Event) -> str:
    """Return an event as JSON: its kind, its time in seconds since 1970, its fields."""
    return as_json({"event": event.kind, "time": round(time, 3), **event.facts()})
