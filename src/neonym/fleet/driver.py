"""The driver of a fleet: it hands shards to workers until every word has ended, whatever happens to the workers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from neonym.fleet.log import FleetLog
from neonym.fleet.pool import Assignment, Died, Done, Message, Pool, Ready, Reported
from neonym.fleet.progress import FleetProgress, Speed
from neonym.fleet.shards import after_death, next_shard
from neonym.fleet.words import Outcome, Shard, Word

if TYPE_CHECKING:
    import neonym

WAIT = 0.5  # seconds for a message
MOST_DEATHS = 3  # of processes that train one word alone, without a step in between
MOST_MACHINES = 3  # machines that fail in one word, such as by a full disk
MOST_OUTAGES = 2  # shards in a row that a worker cannot copy while the others can
PATIENCE = 60.0  # seconds until a worker should be ready
NOBODY = "no worker is ready yet. On Ray, `ray status` shows whether the cluster has what --workers and --gpus ask for."
STOP_SECONDS = 300.0  # for all workers to save their states


@dataclass
class Manner:
    """The way in which the shards of a fleet are trained."""

    place: str
    scratch: str | None = None
    lanes: int | None = None
    save_seconds: float = 60.0
    mark: str = ""  # of the output folder
    start_folder: str = ""  # that a worker must have


@dataclass
class Driver:
    """The state of a fleet that is running."""

    words: Sequence[Word]
    waiting: list[Shard]
    pool: Pool
    manner: Manner
    progress: FleetProgress
    log: FleetLog
    show: Callable[[FleetProgress], object]
    idle: list[str] = field(default_factory=list)  # workers without a shard
    shards: dict[str, Shard] = field(default_factory=dict)  # of each worker that trains
    groups: dict[str, str] = field(default_factory=dict)  # of each worker's last shard
    alive: set[str] = field(default_factory=set)  # workers that are ready or train
    deaths: Counter[str] = field(default_factory=Counter)
    furthest: dict[str, int] = field(default_factory=dict)  # step of each word when a process died with it
    machines: Counter[str] = field(default_factory=Counter)
    outages: Counter[str] = field(default_factory=Counter)  # shards of each worker in a row

    def run(self, stop: neonym.Stop) -> None:
        """Train until every word has ended, or until `stop` is requested."""
        started, is_told = time.monotonic(), False
        while self.unfinished and not stop.requested:
            if not self.alive and not is_told and time.monotonic() - started > PATIENCE:
                self.log.warn(NOBODY)
                is_told = True
            self.give_shards()
            for message in self.pool.messages(WAIT):
                self.hear(message)
            self.show(self.progress)
        if self.shards:
            self.stop_workers()

    @property
    def unfinished(self) -> bool:
        """Whether a word has not ended yet."""
        return bool(self.waiting or self.shards)

    def give_shards(self) -> None:
        """Hand a shard to every worker that has none."""
        while self.idle and self.waiting:
            worker = self.idle.pop(0)
            busy = [shard.group for shard in self.shards.values()]
            shard = self.waiting.pop(next_shard(self.waiting, busy, self.groups.get(worker, "")))
            self.shards[worker], self.groups[worker] = shard, shard.group
            names = [word.name for word in shard.words]
            self.progress.begin(worker, names)
            self.log.write("shard", worker=worker, words=names)
            self.pool.give(worker, Assignment(shard, **vars(self.manner)))

    def hear(self, message: Message) -> None:
        """React to a message of a worker."""
        worker = message.worker
        if isinstance(message, Ready):
            self.progress.speeds.setdefault(worker, Speed(message.device)).device = message.device
            self.idle.append(worker)
            self.alive.add(worker)
            self.log.write("worker", worker=worker, device=message.device)
        elif isinstance(message, Reported):
            for progress in message.progress:
                self.progress.step(worker, progress)
            for outcome in message.outcomes:
                self.end(outcome)
        elif isinstance(message, Done):
            self.done(worker, message.outcomes)
        else:
            self.died(message)

    def done(self, worker: str, outcomes: Sequence[Outcome]) -> None:
        """Note how the words of a shard ended. Words that a machine could not do are done by another one."""
        shard = self.shards.pop(worker)
        self.progress.speeds[worker].words = set()
        self.idle.append(worker)
        by_name = {word.name: word for word in shard.words}
        again: list[Word] = []
        for outcome in outcomes:
            if outcome.name in self.progress.outcomes:  # it was reported before
                continue
            if outcome.ending == "stopped":  # somebody has stopped the worker
                again.append(by_name[outcome.name])
            elif self.may_pass(worker, outcome) and self.machines[outcome.name] < MOST_MACHINES:
                self.machines[outcome.name] += 1
                again.append(by_name[outcome.name])
            else:
                self.end(outcome)
        self.wait_again([Shard(tuple(again), shard.deaths)] if again else [])
        fault = self.fault_of(worker, outcomes)
        if fault and self.has_another(worker):
            self.idle.remove(worker)
            self.pool.retire(worker)
            self.lose(worker, fault)

    def may_pass(self, worker: str, outcome: Outcome) -> bool:
        """Return whether a word may be learned by another worker, or later."""
        return bool(outcome.store or (outcome.machine and self.has_another(worker)))

    def fault_of(self, worker: str, outcomes: Sequence[Outcome]) -> str:
        """Return what is wrong with the machine of a worker; an empty string if nothing is.

        If the object store fails it again and again while others have no trouble, it is the machine.
        """
        stores = [outcome.store for outcome in outcomes if outcome.store]
        self.outages[worker] = self.outages[worker] + 1 if stores else 0
        if stores:
            self.log.warn(f"warning: {worker}: the object store fails ({stores[0]}). Its words are tried again.")
        is_alone = self.outages[worker] >= MOST_OUTAGES and any(not self.outages[o] for o in self.alive - {worker})
        faults = [outcome.machine for outcome in outcomes if outcome.machine] + (stores if is_alone else [])
        return faults[0] if faults else ""

    def has_another(self, worker: str) -> bool:
        """Return whether another worker is there that could do the words of this one."""
        return bool(self.alive - {worker})

    def died(self, message: Died) -> None:
        """Put back what a dead worker had not done. A word that kills three processes alone has failed."""
        worker = message.worker
        self.idle = [other for other in self.idle if other != worker]
        self.alive.discard(worker)
        self.log.write("died", worker=worker, reason=message.reason)
        shard = self.shards.pop(worker, None)
        if shard is not None:
            self.progress.speeds[worker].words = set()
            left = after_death(shard, self.progress.outcomes)
            if len(shard.words) == 1 and left and self.kills(shard.words[0]):
                text = f"{shard.words[0].where}: {MOST_DEATHS} processes died while they trained it ({message.reason})."
                self.end(Outcome(shard.words[0].name, "failed", text))
            else:
                self.wait_again(left)
        if message.is_lost:
            self.lose(worker, message.reason)

    def kills(self, word: Word) -> bool:
        """Return whether enough processes have died with this word alone, without a step in between."""
        run = self.progress.runs.get(word.name)
        step = run.step if run else 0
        if step > self.furthest.get(word.name, 0):
            self.deaths[word.name] = 0
        self.furthest[word.name] = step
        self.deaths[word.name] += 1
        return self.deaths[word.name] >= MOST_DEATHS

    def lose(self, worker: str, reason: str) -> None:
        """Note that a worker is gone for good. When the last one is, no word can be trained any more."""
        self.alive.discard(worker)
        self.log.write("lost", worker=worker, reason=reason)
        if not self.pool.count():
            waiting, self.waiting = self.waiting, []
            for word in (word for shard in waiting for word in shard.words):
                text = f"{word.where}: there is nothing left to train it on ({worker}: {reason})."
                self.end(Outcome(word.name, "failed", text))

    def wait_again(self, shards: Sequence[Shard]) -> None:
        """Put shards back in front of those that wait."""
        self.waiting = [*shards, *self.waiting]
        self.progress.wait([word.name for shard in shards for word in shard.words])

    def end(self, outcome: Outcome) -> None:
        """Note how a word ended, once."""
        if outcome.name not in self.progress.outcomes:
            self.progress.end(outcome)
            self.log.write_outcome(outcome)

    def stop_workers(self) -> None:
        """Stop all workers after the present step of each word, and wait until the states are saved."""
        self.pool.stop()
        ends = time.monotonic() + STOP_SECONDS
        while self.shards and time.monotonic() < ends:
            for message in self.pool.messages(WAIT):
                if isinstance(message, Done):
                    shard = self.shards.pop(message.worker)
                    self.progress.wait([word.name for word in shard.words if word.name not in self.progress.outcomes])
                    for outcome in message.outcomes:
                        if not outcome.store:
                            self.end(outcome)
                elif isinstance(message, Died):
                    self.shards.pop(message.worker, None)
                elif isinstance(message, Reported):
                    self.hear(message)
            self.show(self.progress)
