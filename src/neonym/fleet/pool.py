"""The seam between the driver of a fleet and those who train: processes of this machine, or actors of Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from neonym.fleet.words import Outcome, Progress, Shard


@dataclass(frozen=True)
class Assignment:
    """The work of a worker: a shard, where its files go, and how it trains."""

    shard: Shard
    place: str  # the output folder or its URL
    scratch: str | None
    lanes: int | None
    save_seconds: float
    mark: str = ""  # of the output folder, if it is one
    start_folder: str = ""  # of the driver, if paths are relative to it


@dataclass(frozen=True)
class Ready:
    """A worker can take its first shard. `device` is its device, for people."""

    worker: str
    device: str


@dataclass(frozen=True)
class Reported:
    """A worker reports what is new about its words."""

    worker: str
    progress: Sequence[Progress]
    outcomes: Sequence[Outcome]


@dataclass(frozen=True)
class Done:
    """A worker has done its shard."""

    worker: str
    outcomes: Sequence[Outcome]


@dataclass(frozen=True)
class Died:
    """A worker has died. Its successor is starting; `is_lost` says that there is none."""

    worker: str
    reason: str
    is_lost: bool = False


Message = Ready | Reported | Done | Died


class Pool(Protocol):
    """Workers that each train one shard at a time."""

    def give(self, worker: str, assignment: Assignment) -> None:
        """Let a worker that is ready train a shard."""

    def messages(self, seconds: float) -> list[Message]:
        """Return what the workers have to say; wait for the first message for at most so many seconds."""
        ...

    def count(self) -> int:
        """Return the number of workers, those that are starting included."""
        ...

    def stop(self) -> None:
        """Ask every worker to stop after the present step of each word, with its state saved."""

    def retire(self, worker: str) -> None:
        """End a worker that has nothing to do, for good."""

    def close(self) -> None:
        """End all workers, whatever they are doing."""
