"""The live table of a fleet: the words in each state, the speed of each device, the time that is left."""

from __future__ import annotations

import time

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from neonym.fleet.progress import FleetProgress

LINE_SECONDS = 10.0  # between two lines where there is no terminal
STYLES = {"running": "cyan", "learned": "green", "weak": "yellow", "not learned": "red", "failed": "bold red"}
MOST_DEVICES = 16  # in the table; a fleet may have a hundred


class FleetTable:
    """A table that is updated in place on a terminal, or a line every few seconds elsewhere."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True, highlight=False)
        self.live = Live(console=self.console, auto_refresh=False, transient=True) if self.console.is_terminal else None
        self.shown, self.line = 0.0, ""

    def __enter__(self) -> FleetTable:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()

    def show(self, progress: FleetProgress) -> None:
        """Show how far the fleet is, unless that was done a moment ago."""
        if self.live is not None:
            self.live.update(drawn(progress), refresh=True)
        elif time.monotonic() - self.shown >= LINE_SECONDS:
            self.shown = time.monotonic()
            line = line_of(progress)
            if line != self.line:
                self.print(line)
            self.line = line

    def print(self, text: str) -> None:
        """Print a text verbatim, above the table."""
        self.console.print(text, markup=False, soft_wrap=True)


def line_of(progress: FleetProgress) -> str:
    """Return how far a fleet is, in one line."""
    counts = ", ".join(f"{count} {state}" for state, count in progress.counts().items() if count)
    return f"{counts}; {progress.images_per_second:.1f} images/s; {time_left(progress)} left"


def time_left(progress: FleetProgress) -> str:
    """Return the time until the last word is learned, for people."""
    seconds = progress.seconds_left
    if seconds is None:
        return "unknown time"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def drawn(progress: FleetProgress) -> Group:
    """Return the table of a fleet."""
    words = Table(box=None, pad_edge=False)
    counts = progress.counts()
    for state in counts:
        words.add_column(state, justify="right", style=STYLES.get(state, ""))
    words.add_row(*map(str, counts.values()))
    devices = Table(box=None, pad_edge=False)
    for title in ("device", "images/s", "words"):
        devices.add_column(title, justify="right" if title == "images/s" else "left")
    speeds = list(progress.speeds.values())
    for speed in speeds[:MOST_DEVICES]:
        names = sorted(name for name in speed.words if progress.states[name] == "running")
        rate = "" if speed.images_per_second is None or not names else f"{speed.images_per_second:.1f}"
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        devices.add_row(Text(speed.device), rate, Text(shown, overflow="ellipsis", no_wrap=True))
    if len(speeds) > MOST_DEVICES:
        devices.add_row(f"and {len(speeds) - MOST_DEVICES} more", "", "")
    total = f"{progress.images_per_second:.1f} images/s in all, {time_left(progress)} left"
    return Group(words, devices, Text(total))
