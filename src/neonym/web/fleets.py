"""The fleets in the output folders: what their logs say about each word. Fleets are started on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neonym.web.home import Home
from neonym.web.json_lines import appended, take

LOG = "fleet.jsonl"
STATES = ("waiting", "running", "learned", "weak", "not learned", "failed")


@dataclass
class FleetWord:
    """A word of a fleet, as its log describes it."""

    name: str
    state: str = "waiting"
    step: int = 0
    files: tuple[str, ...] = ()  # below the folder of the fleet
    text: str = ""  # its reason and advice, or its error


@dataclass
class Fleet:
    """A fleet, as far as its log has been read."""

    folder: Path
    words: dict[str, FleetWord] = field(default_factory=dict)
    shards: dict[str, list[str]] = field(default_factory=dict)  # worker -> the words that it trains
    is_running: bool = False
    position: int = 0
    rest: bytes = b""

    def read(self) -> bool:
        """Take the lines that were appended to the log, and return whether there were any."""
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
        self.is_running, self.shards = True, {}
        self.words = {name: self.words.get(name, FleetWord(name)) for name in map(str, event["words"])}
        self.wait([word.name for word in self.words.values() if word.state in ("running", "failed")])

    def on_shard(self, event: dict[str, Any]) -> None:
        names = [str(name) for name in event["words"]]
        self.shards[str(event["worker"])] = names
        for name in names:
            self.words.setdefault(name, FleetWord(name)).state = "running"

    def on_word(self, event: dict[str, Any]) -> None:
        name, state = str(event["word"]), str(event["ending"])
        texts = [event.get("reason"), event.get("advice") and f"Advice: {event['advice']}", event.get("error")]
        files = tuple(map(str, event.get("files") or ()))
        text = "\n".join(str(text) for text in texts if text)
        self.words[name] = FleetWord(name, state if state in STATES else "waiting", int(event["step"]), files, text)

    def on_died(self, event: dict[str, Any]) -> None:
        self.wait(self.shards.pop(str(event["worker"]), []))

    def on_stopped(self, event: dict[str, Any]) -> None:
        del event
        self.is_running = False
        self.wait(list(self.words))

    def on_ended(self, event: dict[str, Any]) -> None:
        self.on_stopped(event)

    def wait(self, names: list[str]) -> None:
        """Note that words which have not ended wait."""
        for name in names:
            if name in self.words and self.words[name].state in ("running", *(("failed",) if self.is_running else ())):
                self.words[name].state = "waiting"

    def counts(self) -> dict[str, int]:
        """Return how many words are in each state in which there are any."""
        states = [word.state for word in self.words.values()]
        return {state: states.count(state) for state in STATES if state in states}


def fleets_in(home: Home) -> list[Path]:
    """Return the output folders that hold a fleet."""
    return [folder for folder in home.named("outputs") if (folder / LOG).is_file()]
