"""The progress of a fleet: the words in each state, the speed of each device, the time that is left."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from neonym.fleet.words import STATES, Outcome, Progress, State, Word

RECENT = 60.0  # seconds over which a speed is averaged


@dataclass
class Speed:
    """The images per second of one device over the last minute."""

    device: str
    words: set[str] = field(default_factory=set)  # those of its present shard
    points: deque[tuple[float, float]] = field(default_factory=deque)  # (time, images so far)
    images: float = 0.0

    def add(self, images: float, now: float) -> None:
        """Note that more images have gone through the model."""
        self.images += images
        self.points.append((now, self.images))
        while len(self.points) > 2 and now - self.points[0][0] > RECENT:
            self.points.popleft()

    @property
    def images_per_second(self) -> float | None:
        """The speed; None before two reports."""
        if len(self.points) < 2 or self.points[-1][0] <= self.points[0][0]:
            return None
        (start, before), (end, after) = self.points[0], self.points[-1]
        return (after - before) / (end - start)


class FleetProgress:
    """The progress of each word and each device of a fleet."""

    def __init__(self, words: Sequence[Word], clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.states: dict[str, State] = {word.name: "waiting" for word in words}
        self.runs: dict[str, Progress] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.speeds: dict[str, Speed] = {}

    def begin(self, worker: str, names: Sequence[str]) -> None:
        """Note that a worker trains words now."""
        self.speeds[worker].words = set(names)
        self.states |= dict.fromkeys(names, "running")

    def step(self, worker: str, progress: Progress) -> None:
        """Note how far a word is."""
        before = self.runs.get(progress.name)
        self.runs[progress.name] = progress
        done_before = before.step if before and before.first_step == progress.first_step else progress.first_step
        steps = max(0, progress.step - done_before)
        self.speeds[worker].add(steps * progress.samples_per_step, self.clock())

    def end(self, outcome: Outcome) -> None:
        """Note how a word ended; one that was stopped waits."""
        if outcome.ending == "stopped":
            self.states[outcome.name] = "waiting"
            return
        self.states[outcome.name] = outcome.ending
        self.outcomes[outcome.name] = outcome

    def wait(self, names: Sequence[str]) -> None:
        """Note that words wait again."""
        self.states |= dict.fromkeys(names, "waiting")

    def counts(self) -> dict[State, int]:
        """Return how many words are in each state."""
        return {state: sum(own == state for own in self.states.values()) for state in STATES}

    @property
    def images_per_second(self) -> float:
        """The speed of all devices together."""
        return sum(speed.images_per_second or 0.0 for speed in self.speeds.values() if speed.words)

    @property
    def seconds_left(self) -> float | None:
        """The time until the last word is learned, at the present speed; None while it is unknown.

        Words that have not begun count as the mean of those that have.
        """
        known = {name: run for name, run in self.runs.items() if run.steps}
        left = [name for name, state in self.states.items() if state in ("waiting", "running")]
        if not known or not self.images_per_second:
            return None
        mean = sum(run.steps * run.samples_per_step for run in known.values()) / len(known)
        images = sum(
            (known[name].steps - known[name].step) * known[name].samples_per_step if name in known else mean
            for name in left
        )
        return images / self.images_per_second
