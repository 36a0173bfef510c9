"""The fleets in the output folders: what their logs say about each word. Fleets are started on the command line."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neonym.web.home import Home
from neonym.web.images import modified_ns
from neonym.web.json_lines import appended, take

LOG, EVENTS = "fleet.jsonl", "events.jsonl"
STATES = ("waiting", "running", "learned", "weak", "not learned", "failed")


@dataclass
class FleetWord:
    """A word of a fleet, with what is known about it."""

    name: str
    state: str = "waiting"
    step: int | None = None  # at which it ended; None before
    files: tuple[str, ...] = ()  # below the folder of the fleet
    text: str = ""  # its reason and advice, or its error
    worker: str = ""  # that trains it


@dataclass
class Fleet:
    """A fleet, as far as its log has been read."""

    folder: Path
    words: dict[str, FleetWord] = field(default_factory=dict)
    is_running: bool = False
    position: int = 0
    rest: bytes = b""

    def read(self) -> bool:
        """Take all lines that were appended to the log, and return whether there were any."""
        is_new = False
        while self.read_part():
            is_new = True
        return is_new

    def read_part(self) -> bool:
        """Take the next lines of the log, as many as are read at once, and return whether there were any."""
        file = self.folder / LOG
        try:
            size = file.stat().st_size
            if size < self.position:  # another fleet has begun in a folder that was emptied
                vars(self).update(vars(Fleet(self.folder)))
            if size == self.position or file.is_symlink():
                return False
            lines, self.position, self.rest = appended(file, self.position, size, self.rest)
        except OSError:
            return False
        for line in lines:
            take(self, line)
        return True

    def on_started(self, event: dict[str, Any]) -> None:
        self.is_running = True
        self.words = {name: self.words.get(name, FleetWord(name)) for name in map(str, event["words"])}
        for word in self.words.values():
            if word.state in ("running", "failed"):  # failed words are tried again
                word.state, word.text = "waiting", ""

    def on_shard(self, event: dict[str, Any]) -> None:
        worker = str(event["worker"])
        for name in map(str, event["words"]):
            word = self.words.setdefault(name, FleetWord(name))
            word.state, word.worker = "running", worker

    def on_word(self, event: dict[str, Any]) -> None:
        name, state = str(event["word"]), str(event["ending"])
        texts = [event.get("reason"), event.get("advice") and f"Advice: {event['advice']}", event.get("error")]
        files = tuple(map(str, event.get("files") or ()))
        text = "\n".join(str(text) for text in texts if text)
        self.words[name] = FleetWord(name, state if state in STATES else "waiting", int(event["step"]), files, text)

    def on_died(self, event: dict[str, Any]) -> None:
        worker = str(event["worker"])
        self.wait(word for word in self.words.values() if word.worker == worker)

    def on_lost(self, event: dict[str, Any]) -> None:
        self.on_died(event)

    def on_stopped(self, event: dict[str, Any]) -> None:
        del event
        self.is_running = False
        self.wait(self.words.values())

    def on_ended(self, event: dict[str, Any]) -> None:
        self.on_stopped(event)

    def wait(self, words: Iterable[FleetWord]) -> None:
        """Note that words which have not ended wait."""
        for word in words:
            if word.state == "running":
                word.state = "waiting"

    def silence(self) -> float:
        """Return the seconds since the fleet or one of the words that it trains reported something."""
        running = (name for name, word in self.words.items() if word.state == "running")
        files = (self.folder / LOG, *(self.folder / name / f"{name}-run" / EVENTS for name in running))
        return max(0.0, time.time() - max(map(modified_ns, files)) / 1e9)

    def counts(self) -> dict[str, int]:
        """Return how many words are in each state in which there are any."""
        states = [word.state for word in self.words.values()]
        return {state: states.count(state) for state in STATES if state in states}


def fleets_in(home: Home) -> list[Path]:
    """Return the output folders that hold a fleet."""
    return [folder for folder in home.named("outputs") if (folder / LOG).is_file()]
