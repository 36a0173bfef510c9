"""The log of a fleet, `fleet.jsonl`: what happened, as lines of JSON. docs/fleet.md describes it."""

from __future__ import annotations

import time
from collections.abc import Callable

from neonym.fleet.output import LOG, Output
from neonym.fleet.words import Outcome
from neonym.io.json import as_json

STORE_SECONDS = 30.0  # between two writes to an object store, which writes the whole file each time


class FleetLog:
    """A file to which every command appends what happened. A full disk does not stop the fleet."""

    def __init__(self, output: Output, warn: Callable[[str], object]):
        self.output, self.warn = output, warn
        self.seconds = STORE_SECONDS if output.is_remote else 0.0
        self.lines: list[str] = []
        self.written = 0.0
        self.is_broken = False

    def write(self, event: str, **facts: object) -> None:
        """Append a line, now or together with the next ones."""
        self.lines.append(as_json({"event": event, "time": round(time.time(), 3), **facts}) + "\n")
        if time.monotonic() - self.written >= self.seconds:
            self.flush()

    def write_outcome(self, outcome: Outcome) -> None:
        """Append how a word ended."""
        verdict = outcome.verdict or {}
        known = {"reason": verdict.get("reason"), "advice": verdict.get("advice"), "error": outcome.error}
        facts = {name: value for name, value in known.items() if value}
        if outcome.was_finished:
            facts["was_finished"] = True
        self.write("word", word=outcome.name, ending=outcome.ending, step=outcome.step, files=outcome.files, **facts)

    def flush(self) -> None:
        """Write what is not written yet. If that fails, the lines are kept for the next time, and a warning is printed.

        There is one warning until it succeeds again.
        """
        lines, self.lines, self.written = self.lines, [], time.monotonic()
        try:
            self.output.append(LOG, "".join(lines))
            self.is_broken = False
        except OSError as error:
            if not self.is_broken:
                self.warn(f"warning: {LOG} cannot be written ({error}). The fleet goes on.")
            self.is_broken = True
            self.lines = [*lines, *self.lines]
