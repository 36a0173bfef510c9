"""The terminal output of a run: a live progress bar, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from neonym.errors import UserError
from neonym.runs.events import (
    Encoded,
    Evaluated,
    Event,
    Failed,
    Finished,
    Judging,
    Level,
    Noted,
    Started,
    Stepped,
    Stopped,
)

FETCH_SECONDS = 1.0  # between two fetches of the losses, which wait for the device
LINE_SECONDS = 5.0  # between two lines where there is no terminal
LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
IMPORTANCE: dict[Level, int] = {"info": 20, "warning": 30, "result": 100}


@dataclass
class Progressing:
    """The progress of a word that learns."""

    run: Started
    step: int  # steps done
    evaluation: float | None = None


class Terminal:
    """A listener that shows notes, progress and the loss on standard error; notes may go to a log file instead.

    Several words share one bar, which counts the steps of all of them that have begun.
    """

    def __init__(self, console: Console | None = None, level: str = "INFO", log: Path | None = None):
        """Omit notes below `level`, a level name of `logging`. Raises UserError if `log` cannot be written."""
        self.console = console or Console(stderr=True, highlight=False)
        self.level, self.log = LEVELS[level], LogFile(log) if log is not None else None
        self.steps: list[Stepped] = []  # steps whose losses are not fetched yet
        self.losses: list[float] = []  # losses that no line has shown yet
        self.words: dict[str, Progressing] = {}  # the words that have begun
        self.learning: set[str] = set()  # those whose steps are not over
        self.noted: dict[str, str] = {}  # the word of each note: one that others have before they begin is shown once
        self.bar: Progress | None = None
        self.images = 0.0  # that went through the model since `started`
        self.started = self.fetched = self.printed = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        match event:
            case Noted(level=level, text=text):
                is_common = self.noted.setdefault(text, event.word) != event.word and event.word not in self.words
                if not is_common or level == "result":
                    self.note(level, self.with_word(event.word, text))
            case Encoded(done=done, total=total):
                self.progress(self.with_word(event.word, "encoded"), done, total)
            case Started():
                self.start(event)
            case Stepped():
                self.steps.append(event)  # fetched later, so as not to wait for the device in each step
                self.images += self.words[event.word].run.samples_per_step
                if time.monotonic() - self.fetched >= FETCH_SECONDS:
                    self.show_steps()
            case Evaluated(loss=loss):
                if event.word in self.words:
                    self.words[event.word].evaluation = loss
            case Judging(done=done, total=total):
                self.end(event.word)
                self.progress(self.with_word(event.word, "judged"), done, total)
            case Stopped() | Finished() | Failed():
                self.end(event.word)

    def with_word(self, word: str, text: str) -> str:
        """Return a text with the word that it is about, if there are several."""
        return f"{word}: {text}" if len(self.words) > 1 and not text.startswith(f"{word}:") else text

    def note(self, level: Level, text: str) -> None:
        """Show a note, or write it to the log file; show and write a result."""
        if IMPORTANCE[level] < self.level:
            return
        is_logged = self.log is not None and self.log.write(text)
        if level == "result" or not is_logged:  # for example because the disk is full
            self.print(text)

    def print(self, text: str) -> None:
        """Print a text verbatim."""
        self.console.print(text, markup=False, soft_wrap=True)

    def progress(self, name: str, done: int, total: int) -> None:
        """Note how many items are done, every few seconds and at the end."""
        if done and (done == total or time.monotonic() - self.fetched > LINE_SECONDS):
            self.fetched = time.monotonic()
            self.note("info", f"{name}: {done} of {total}")

    def start(self, run: Started) -> None:
        """Start to show the steps of a word."""
        if not self.learning:
            self.started, self.images = time.monotonic(), 0.0
            self.fetched = self.started
        self.words[run.word] = Progressing(run, run.first_step)
        self.learning.add(run.word)
        done, total = self.steps_done()
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], total=total)
        elif self.console.is_terminal:
            columns = (TextColumn("step"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, TextColumn("{task.description}"), console=self.console)
            self.bar.start()
            self.bar.add_task("", total=total, completed=done)

    def steps_done(self) -> tuple[int, int]:
        """Return the steps that are done and the steps of all words that have begun."""
        return sum(word.step for word in self.words.values()), sum(word.run.steps for word in self.words.values())

    def show_steps(self) -> None:
        """Fetch the losses of the last steps, and show the progress of the run."""
        if not self.steps:
            return
        self.losses += [loss for step in self.steps for loss in step.losses]
        for step in self.steps:
            self.words[step.word].step = step.step
        self.steps, self.fetched = [], time.monotonic()
        done, total = self.steps_done()
        before = sum(word.run.first_step for word in self.words.values())
        rate = (done - before) / max(1e-6, time.monotonic() - self.started)
        text = self.description()
        if self.bar is not None:
            self.losses = []
            self.bar.update(self.bar.task_ids[0], completed=done, description=text)
        elif done == total or time.monotonic() - self.printed >= LINE_SECONDS:
            self.losses, self.printed = [], time.monotonic()
            left = (total - done) / rate if rate else 0
            self.print(f"step {done}/{total}  {left:.0f} s left  {text}")

    def description(self) -> str:
        """Return the speed and the losses, and how many words learn if there are several."""
        speed = self.images / max(1e-6, time.monotonic() - self.started)
        text = f"{speed:.1f} images/s  loss {sum(self.losses) / len(self.losses):.4f}"
        evaluations = [word.evaluation for word in self.words.values() if word.evaluation is not None]
        text += f"  eval {sum(evaluations) / len(evaluations):.4f}" if evaluations else "  "
        return f"{len(self.learning)} words  {text}" if len(self.words) > 1 else text

    def end(self, word: str) -> None:
        """Show the last steps, and remove the bar if no other word learns."""
        self.show_steps()
        self.learning.discard(word)
        if self.bar is not None and not self.learning:
            self.bar.stop()
            self.bar = None


class LogFile:
    """The file of `--console_log_file`, which every run overwrites."""

    def __init__(self, path: Path):
        """Check that the file can be written, without changing its content. Raises UserError if it cannot."""
        self.path, self.is_new = path, True
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a").close()  # only a process that writes a line overwrites it
        except OSError as error:
            fix = "Name another --console_log_file"
            raise UserError(f"cannot be written ({error.strerror})", str(path), fix) from error

    def write(self, text: str) -> bool:
        """Append a line with the time. Return whether it could be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("w" if self.is_new else "a", encoding="utf-8", errors="backslashreplace") as file:
                self.is_new = False
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        except OSError:
            return False
        return True
