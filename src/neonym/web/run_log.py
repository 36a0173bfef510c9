"""Read the reports of a run from the events in its run folder while they are written.

Several runs may have written to one file: with the same settings and more steps, a run goes on with an earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from neonym.web.json_lines import appended, take

RECENT = 60.0  # seconds over which the speed is averaged
POINTS = 600  # of a curve; the browser gets no more
ENDS = ("finished", "stopped", "failed")


@dataclass
class RunLog:
    """The reports of one run. `read` takes what was appended to its event file since the last call."""

    file: Path
    begin: int = 0  # the bytes before those of this run, which are those of an earlier one
    position: int = 0
    rest: bytes = b""  # the beginning of a line
    status: str = ""  # the last event that says what the run does: "opened", "encoded", "started", ..., or its end
    words: list[str] = field(default_factory=list)
    step: int = 0
    steps: int = 0
    samples_per_step: float = 0.0
    times: list[tuple[float, int]] = field(default_factory=list)  # (seconds since 1970, steps done)
    losses: list[tuple[int, float]] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    saved: list[tuple[int, Path]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)  # (level, text)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    error: str = ""
    progress: tuple[int, int] = (0, 0)  # of encoding or judging
    earlier: RunLog | None = None  # the run before, until it is known whether this one goes on with it

    def read(self) -> bool:
        """Take the events that were appended, and return whether there were any."""
        is_new = self.read_part()
        if is_new and 0 < self.position == self.begin:
            vars(self).update(vars(RunLog(self.file, self.begin, self.position, earlier=replace(self))))
            self.read_part()
        return is_new

    def read_part(self) -> bool:
        """Take events up to the beginning of this run, or those from there on, and return whether there were any."""
        try:
            size = self.file.stat().st_size
            if size < max(self.position, self.begin):  # somebody removed the folder, and a run made it again
                vars(self).update(vars(RunLog(self.file)))
            end = self.begin if self.position < self.begin else size
            if end == self.position:
                return False
            lines, self.position, self.rest = appended(self.file, self.position, end, self.rest)
        except OSError:
            return False
        for line in lines:
            take(self, line)
        return True

    def on_opened(self, event: dict[str, Any]) -> None:
        self.status, self.words = "opened", list(event["words"])
        self.times, self.error, self.verdicts = [], "", []

    def on_encoded(self, event: dict[str, Any]) -> None:
        self.status, self.progress = "encoded", (event["done"], event["total"])

    def on_started(self, event: dict[str, Any]) -> None:
        self.go_on_with_earlier()
        self.status, self.step, self.steps = "started", event["first_step"], event["steps"]
        self.samples_per_step = event["samples_per_step"]
        self.times = [(event["time"], self.step)]
        self.drop_after(self.step)

    def drop_after(self, step: int) -> None:
        """Drop what was reported after a step from which the run is done again; everything if that is its first one."""
        self.losses = [point for point in self.losses if point[0] <= step and step]
        self.evaluations = [point for point in self.evaluations if point[0] <= step and step]
        self.samples = [sample for sample in self.samples if sample["step"] <= step and step]
        self.saved = [(at, file) for at, file in self.saved if at <= step and step]

    def go_on_with_earlier(self) -> None:
        """Take over what the earlier run reported."""
        before, self.earlier = self.earlier, None
        if before is not None:
            self.losses, self.evaluations = before.losses, before.evaluations
            self.samples, self.saved = before.samples, before.saved
            self.step, self.steps = self.step or before.step, self.steps or before.steps

    def on_step(self, event: dict[str, Any]) -> None:
        self.status, self.step = "step", event["step"]
        known = [loss for loss in event["losses"] if loss is not None]
        if known:
            self.losses.append((self.step, sum(known) / len(known)))
        self.times.append((event["time"], self.step))
        while self.times[-1][0] - self.times[0][0] > RECENT and len(self.times) > 2:
            self.times.pop(0)

    def on_evaluated(self, event: dict[str, Any]) -> None:
        if event["loss"] is not None:  # a run that goes on evaluates its start again
            self.evaluations = sorted({**dict(self.evaluations), event["step"]: event["loss"]}.items())

    def on_sampled(self, event: dict[str, Any]) -> None:
        self.samples.append(event)

    def on_saved(self, event: dict[str, Any]) -> None:
        path = Path(event["file"])
        self.saved = [(step, file) for step, file in self.saved if file != path] + [(event["step"], path)]

    def on_judging(self, event: dict[str, Any]) -> None:
        self.status, self.progress = "judging", (event["done"], event["total"])

    def on_note(self, event: dict[str, Any]) -> None:
        self.notes.append((str(event.get("level", "note")), str(event["text"])))

    def on_finished(self, event: dict[str, Any]) -> None:
        self.status = "finished"
        self.go_on_with_earlier()  # a run that was finished already does nothing
        self.verdicts = list(event["verdicts"])
        self.files = [Path(file) for file in event["files"]]

    def on_stopped(self, event: dict[str, Any]) -> None:
        del event
        self.status = "stopped"

    def on_failed(self, event: dict[str, Any]) -> None:
        self.status, self.error = "failed", str(event["error"])

    @property
    def has_ended(self) -> bool:
        """Whether the last thing that the run reported is its end."""
        return self.status in ENDS

    @property
    def steps_per_second(self) -> float | None:
        """The speed over the last minute; None before two steps."""
        if len(self.times) < 2 or self.times[-1][0] <= self.times[0][0]:
            return None
        return (self.times[-1][1] - self.times[0][1]) / (self.times[-1][0] - self.times[0][0])

    @property
    def images_per_second(self) -> float | None:
        """The images that go through the model per second."""
        speed = self.steps_per_second
        return None if speed is None else speed * self.samples_per_step

    @property
    def seconds_left(self) -> float | None:
        """The time until the last step, at the present speed."""
        speed = self.steps_per_second
        return (self.steps - self.step) / speed if speed and self.steps else None

    def curve(self) -> list[tuple[int, float]]:
        """Return the training loss, each point the mean of as many steps as it takes to have at most POINTS points."""
        size = max(1, -(-len(self.losses) // POINTS))
        parts = [self.losses[i : i + size] for i in range(0, len(self.losses), size)]
        return [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]
