"""What a run says: lines or a live bar on the terminal, and `events.jsonl` in the run folder."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from neonym.errors import UserError

FLUSH_SECONDS = 1.0  # between looks at the losses
LINE_SECONDS = 5.0  # between lines where there is no terminal
LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON in which a number that is not finite is null: `NaN` is no JSON."""

    def finite(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: finite(inner) for key, inner in part.items()}
        if isinstance(part, (list, tuple)):
            return [finite(inner) for inner in part]
        return None if isinstance(part, float) and not math.isfinite(part) else part

    return json.dumps(finite(value), ensure_ascii=False, allow_nan=False, indent=indent)


class Stopped(BaseException):
    """The run was asked to stop, by this signal. No library may take it for an error of its own."""

    def __init__(self, signal: int):
        super().__init__(signal)
        self.signal = signal


class Report(Protocol):
    """Whatever follows a run: a terminal, a test, later a web page."""

    stop_wanted: int  # the signal that asked for it, 0: none
    stops_at_once: bool  # nothing would be lost: whoever sets `stop_wanted` in the run's own thread raises Stopped too

    def note(self, text: str) -> None: ...
    def result(self, text: str) -> None: ...  # what must be seen, whatever is left out
    def event(self, kind: str, **facts: Any) -> None: ...
    def phase(self, name: str, done: int, total: int) -> None: ...
    def begin(self, folder: Path, first_step: int, steps: int, samples_per_step: float) -> None: ...
    def step(self, step: int, losses: torch.Tensor) -> None: ...
    def end(self) -> None: ...


class Silent:
    """Follows a run without a word."""

    stop_wanted = 0
    stops_at_once = False

    def note(self, text: str) -> None:
        del text

    def result(self, text: str) -> None:
        self.note(text)

    def event(self, kind: str, **facts: Any) -> None:
        del kind, facts

    def phase(self, name: str, done: int, total: int) -> None:
        del name, done, total

    def begin(self, folder: Path, first_step: int, steps: int, samples_per_step: float) -> None:
        del folder, first_step, steps, samples_per_step

    def step(self, step: int, losses: torch.Tensor) -> None:
        del step, losses

    def end(self) -> None:
        pass


@contextmanager
def stopping_at_once(report: Report) -> Iterator[None]:
    """A block that has nothing to save, such as the loading of a model, and that a stop ends where it is. Raises Stopped."""
    report.stops_at_once = True
    try:
        if report.stop_wanted:
            raise Stopped(report.stop_wanted)
        yield
    finally:
        report.stops_at_once = False


class Terminal(Silent):
    """A live bar where there is a terminal, plain lines where there is none, and the event file."""

    def __init__(self, console: Console | None = None, level: str = "INFO", log: Path | None = None):
        """Notes below `level` are left out; with a `log` they go to that file instead. Raises UserError."""
        self.console = console or Console(stderr=True, highlight=False)
        self.level, self.log, self.fresh = LEVELS[level], log, True
        if log is not None:
            self.start_log(log)
        self.file: Path | None = None
        self.pending: list[tuple[int, torch.Tensor]] = []
        self.unsaid: list[float] = []  # losses that no line has told of
        self.early: list[str] = []  # events before the folder is known
        self.broken = False  # the event file could not be written
        self.bar: Progress | None = None
        self.evaluation = ""
        self.started = self.flushed = self.printed = time.monotonic()
        self.first_step = self.steps = 0
        self.samples_per_step = 1.0

    def note(self, text: str) -> None:
        self.event("note", text=text)
        level = LEVELS["WARNING" if text.startswith("warning") else "INFO"]
        if level < self.level:
            return
        if self.log is None:
            self.console.print(text, markup=False, soft_wrap=True)
        else:
            self.to_log(text)

    def result(self, text: str) -> None:
        self.event("note", text=text)
        self.console.print(text, markup=False, soft_wrap=True)
        if self.log is not None:
            self.to_log(text)

    def start_log(self, log: Path) -> None:
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.open("a").close()  # of several processes only the one that speaks begins it anew
        except OSError as error:
            raise UserError(
                f"cannot be written ({error.strerror})", str(log), "Name another --console_log_file"
            ) from error

    def to_log(self, text: str) -> None:
        """A full disk stops nothing: the line goes to the terminal then."""
        assert self.log is not None
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("w" if self.fresh else "a", encoding="utf-8", errors="backslashreplace") as file:
                self.fresh = False
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        except OSError:
            self.console.print(text, markup=False, soft_wrap=True)

    def event(self, kind: str, **facts: Any) -> None:
        line = as_json({"event": kind, "time": round(time.time(), 3), **facts})
        if self.file is None:
            self.early.append(line)
        else:
            self.append([line])
        if kind == "evaluated":
            self.evaluation = f"eval {facts['loss']:.4f}"

    def append(self, lines: list[str]) -> None:
        """To the event file; a full disk is said once and stops nothing."""
        assert self.file is not None
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(line + "\n" for line in lines)
        except OSError as error:
            if not self.broken:
                self.console.print(f"warning: {self.file} cannot be written ({error.strerror})", markup=False)
            self.broken = True

    def phase(self, name: str, done: int, total: int) -> None:
        if done and (done == total or time.monotonic() - self.flushed > LINE_SECONDS):
            self.flushed = time.monotonic()
            self.note(f"{name}: {done} of {total}")

    def begin(self, folder: Path, first_step: int, steps: int, samples_per_step: float) -> None:
        self.file = folder / "events.jsonl"
        self.append(self.early)
        self.event("started", first_step=first_step, steps=steps)
        self.first_step, self.steps, self.samples_per_step = first_step, steps, samples_per_step
        self.started = self.flushed = time.monotonic()
        if self.console.is_terminal:
            columns = (
                TextColumn("step"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
            )
            self.bar = Progress(*columns, console=self.console)
            self.bar.start()
            self.bar.add_task("", total=steps, completed=first_step)

    def step(self, step: int, losses: torch.Tensor) -> None:
        """`losses` stays on its device until something is printed: no waiting for it in the hot path."""
        self.pending.append((step, losses))
        if time.monotonic() - self.flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if not self.pending:
            return
        values = torch.stack([losses for _, losses in self.pending]).tolist()  # one transfer
        for (step, _), losses in zip(self.pending, values, strict=True):
            self.event("step", step=step, losses=losses)
        done = self.pending[-1][0]
        self.pending, self.flushed = [], time.monotonic()
        seconds = max(1e-6, time.monotonic() - self.started)
        rate = (done - self.first_step) / seconds
        left = (self.steps - done) / rate if rate else 0
        self.unsaid += [loss for losses in values for loss in losses]
        mean = sum(self.unsaid) / len(self.unsaid)
        text = f"{rate * self.samples_per_step:.1f} images/s  loss {mean:.4f}  {self.evaluation}"
        if self.bar is not None:
            self.unsaid = []
            self.bar.update(self.bar.task_ids[0], completed=done, description=text)
        elif done == self.steps or time.monotonic() - self.printed >= LINE_SECONDS:
            self.unsaid, self.printed = [], time.monotonic()
            self.console.print(f"step {done}/{self.steps}  {left:.0f} s left  {text}", markup=False, soft_wrap=True)

    def end(self) -> None:
        self.flush()
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
