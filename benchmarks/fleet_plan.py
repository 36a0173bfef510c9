"""Simulate a fleet: hours, words per GPU-hour, where the time goes, and what would make it shorter.

    python -m benchmarks.fleet_plan --words 1000 --workers 8 --measure --json
    python -m benchmarks.fleet_plan --words 10000 --workers 100 --step_seconds 1=0.128 16=0.34 --load_seconds 20

A discrete simulation of events with the fleet's own rules: words are cut into shards and handed to workers by the code
of `neonym.fleet`. The times are given, or measured on this machine with `--measure`, by training words of the built-in
model. Words are not all of one length, machines can be taken away, and models are read from a storage that all share.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import neonym
from neonym.fleet.shards import cut, next_shard
from neonym.fleet.words import Shard, Word

HOUR = 3600.0
STEPS_OF_BUILTIN = 100  # of a word of the built-in model, by default


@dataclass(frozen=True)
class Costs:
    """The times that a fleet consists of, in seconds, for one worker with one device."""

    step: Mapping[int, float]  # of all lanes together, by the number of lanes; between two numbers: a straight line
    load: float = 20.0  # reading a model, if nobody else reads from the storage
    readers: int = 8  # workers that the storage serves at full speed at the same time
    start: float = 30.0  # starting a process, or an actor on a machine that is there
    encode: float = 1.0  # encoding the images of a word
    judge: float = 5.0  # the verdict on a word
    check: float = 0.2  # checking a word before the start
    checkers: int = 8  # processes that check
    driver: float = 0.01  # handing out a shard and hearing of its end
    steps: int = 2000  # of a word
    spread: float = 0.1  # of the steps, relative, because of early stops
    lost_every: float = 0.0  # hours between two losses of a machine, for each; 0: never
    machine: float = 300.0  # until a lost machine is replaced
    state: int = 25  # steps between two states: so many are done again

    def step_seconds(self, lanes: int) -> float:
        """Return the time of a step of so many lanes."""
        known = sorted(self.step.items())
        if lanes <= known[0][0] or len(known) == 1:
            return known[0][1]
        (low, first), (high, last) = next(((a, b) for a, b in pairwise(known) if lanes <= b[0]), (known[-2], known[-1]))
        return first + (last - first) * (lanes - low) / (high - low)


@dataclass
class Spent:
    """The seconds of all workers together, by what they were spent on."""

    training: float = 0.0
    encoding: float = 0.0
    judging: float = 0.0
    loading: float = 0.0
    starting: float = 0.0
    lost: float = 0.0  # work that was done again, and waiting for new machines
    idle: float = 0.0  # waiting for the driver, and for the last words of others


@dataclass
class Outcome:
    """The result of a simulation."""

    hours: float
    words_per_worker_hour: float
    shares: dict[str, float]  # of the time of all workers
    losses: int = 0


@dataclass(order=True)
class Arrival:
    """A worker that has nothing to do from a moment on."""

    at: float
    worker: int
    group: str = field(compare=False, default="")  # of the model that it has loaded


class Simulation:
    """A fleet on paper."""

    def __init__(self, words: int, workers: int, models: int, lanes: int, costs: Costs, shard: int | None, seed: int):
        self.costs, self.lanes, self.workers = costs, lanes, workers
        self.random = random.Random(seed)
        made = [Word(f"w{i}", f"w{i}", {}, "", f"model {i % models}") for i in range(words)]
        self.length = {word.name: self.draw_length() for word in made}
        self.count = words
        self.waiting = cut(made, (), workers, shard)
        self.reading: list[float] = []  # when each of the present readers of the storage ends
        self.busy: dict[int, str] = {}
        self.spent, self.losses, self.driver_free = Spent(), 0, 0.0

    def draw_length(self) -> float:
        """Return the number of steps of a word."""
        return self.costs.steps * max(0.1, self.random.gauss(1.0, self.costs.spread))

    def run(self) -> Outcome:
        """Return how long it takes."""
        costs = self.costs
        begin = self.count * costs.check / costs.checkers
        arrivals = [Arrival(begin + costs.start, worker) for worker in range(self.workers)]
        self.spent.starting += costs.start * self.workers
        self.spent.idle += begin * self.workers
        ends: list[float] = []
        while arrivals:
            arrival = heapq.heappop(arrivals)
            self.busy.pop(arrival.worker, None)
            if not self.waiting:
                ends.append(arrival.at)
                continue
            heapq.heappush(arrivals, self.train(arrival))
        end = max(ends)
        self.spent.idle += sum(end - other for other in ends)
        total = end * self.workers
        shares = {name: seconds / total for name, seconds in asdict(self.spent).items()}
        return Outcome(end / HOUR, self.count / (total / HOUR), shares, self.losses)

    def train(self, arrival: Arrival) -> Arrival:
        """Let a worker do the next shard, and return when it is done, or when its machine has been replaced."""
        shard = self.waiting.pop(next_shard(self.waiting, self.busy.values(), arrival.group))
        self.busy[arrival.worker] = shard.group
        now = max(arrival.at, self.driver_free)
        self.driver_free = now + self.costs.driver
        self.spent.idle += self.driver_free - arrival.at
        now = self.driver_free
        loading = 0.0 if shard.group == arrival.group else self.load(now)
        training, encoding, judging = self.time_of(shard)
        seconds = loading + training + encoding + judging
        until_loss = self.random.expovariate(1 / (self.costs.lost_every * HOUR)) if self.costs.lost_every else seconds
        if until_loss < seconds:
            return self.lose(shard, arrival, now + until_loss, until_loss, max(0.0, until_loss - loading), training)
        self.spent.loading += loading
        self.spent.training += training
        self.spent.encoding += encoding
        self.spent.judging += judging
        return Arrival(now + seconds, arrival.worker, shard.group)

    def load(self, now: float) -> float:
        """Return how long a worker loads a model while others read from the same storage."""
        self.reading = [end for end in self.reading if end > now]
        slowed = max(1.0, (len(self.reading) + 1) / self.costs.readers)
        self.reading.append(now + self.costs.load * slowed)
        return self.costs.load * slowed

    def time_of(self, shard: Shard) -> tuple[float, float, float]:
        """Return how long a worker trains, encodes and judges the words of a shard.

        A lane that is finished is taken by a word that waits.
        """
        lengths = [self.length[word.name] for word in shard.words]
        ahead, active, training, done = lengths[self.lanes :], lengths[: self.lanes], 0.0, 0.0
        heapq.heapify(active)
        while active:
            next_end = active[0]
            training += (next_end - done) * self.costs.step_seconds(len(active))
            done = heapq.heappop(active)
            if ahead:
                heapq.heappush(active, done + ahead.pop(0))
        count = len(shard.words)
        return training, count * self.costs.encode, count * self.costs.judge

    def lose(self, shard: Shard, arrival: Arrival, at: float, passed: float, worked: float, training: float) -> Arrival:
        """Let a machine be taken away: what was done since the last states is done again by the next worker."""
        costs = self.costs
        again = min(worked, costs.state * costs.step_seconds(min(self.lanes, len(shard.words))))
        kept = max(0.0, worked - again)
        left = max(0.0, 1 - kept / training) if training else 1.0
        for word in shard.words:
            self.length[word.name] *= left
        self.waiting.insert(0, shard)
        self.losses += 1
        self.spent.training += min(kept, training)
        self.spent.lost += passed - min(kept, training) + costs.machine
        return Arrival(at + costs.machine, arrival.worker)


def simulate(
    words: int, workers: int, costs: Costs, lanes: int = 16, models: int = 1, shard: int | None = None, seed: int = 0
) -> Outcome:
    """Return how long a fleet takes, and what its workers spend their time on."""
    return Simulation(words, workers, models, lanes, costs, shard, seed).run()


def what_would_help(
    words: int, workers: int, costs: Costs, lanes: int, models: int, shard: int | None
) -> dict[str, float]:
    """Return by how much the words per worker-hour would rise if one cost were gone, the largest first."""
    now = simulate(words, workers, costs, lanes, models, shard).words_per_worker_hour
    halved = {count: seconds / 2 for count, seconds in costs.step.items()}
    changes = {
        "steps twice as fast": replace(costs, step=halved),
        "verdicts for nothing": replace(costs, judge=0.0),
        "images already encoded": replace(costs, encode=0.0),
        "models loaded for nothing": replace(costs, load=0.0),
        "checks for nothing": replace(costs, check=0.0),
        "no driver": replace(costs, driver=0.0),
        "machines that stay": replace(costs, lost_every=0.0),
        "processes that are there": replace(costs, start=0.0),
    }
    gains = {
        name: simulate(words, workers, other, lanes, models, shard).words_per_worker_hour / now - 1
        for name, other in changes.items()
    }
    return dict(sorted(gains.items(), key=lambda item: -item[1]))


class Spans:
    """Listeners that time the parts of runs, which may overlap."""

    def __init__(self) -> None:
        self.moments: dict[int, dict[str, float]] = {}

    def of(self, index: int) -> list[neonym.Listener]:
        """Return the listeners of one run."""
        moments = self.moments.setdefault(index, {})

        def listen(event: neonym.Event) -> None:
            if isinstance(event, neonym.Encoded):
                moments.setdefault("encoding", time.perf_counter())
            elif isinstance(event, neonym.Stepped):
                moments["stepped"] = time.perf_counter()
            elif event.kind not in moments:
                moments[event.kind] = time.perf_counter()

        return [listen]

    def union(self, first: str, last: str) -> float:
        """Return how long at least one run was between two moments."""
        spans = sorted((own[first], own[last]) for own in self.moments.values())
        total, end = 0.0, float("-inf")
        for begin, until in spans:
            total += max(0.0, until - max(begin, end))
            end = max(end, until)
        return total


def measure(folder: Path, lanes: Sequence[int], steps: int) -> Costs:
    """Return the costs of words of the built-in model on this machine, by training some."""
    step: dict[int, float] = {}
    runs: list[neonym.RunConfig] = []
    load = encode = judge = 0.0
    for count in lanes:
        spans = Spans()
        runs = [
            neonym.RunConfig.parse(
                train_data_dir="examples/nutkin", token_string="nutkin", output_name=f"word{i}", max_train_steps=steps,
                train_batch_size=1, cpu=True, seed=i, output_dir=str(folder / f"{count}" / f"{i}"),
            )
            for i in range(count)
        ]  # fmt: skip
        started = time.perf_counter()
        results = neonym.train_words(runs, listeners=spans.of, lanes=count)
        if errors := [result for result in results if isinstance(result, neonym.NeonymError)]:
            raise errors[0]
        step[count] = spans.union("started", "stepped") / steps
        load = min(own["encoding"] for own in spans.moments.values()) - started
        encode = spans.union("encoding", "started") / count
        judge = spans.union("stepped", "finished") / count
    check_started = time.perf_counter()
    neonym.check(runs[0])
    check = time.perf_counter() - check_started
    return Costs(step, load=load, encode=encode, judge=judge, check=check, steps=STEPS_OF_BUILTIN)


def given_steps(texts: Sequence[str]) -> dict[int, float]:
    """Return the seconds of a step by the number of lanes, from texts such as `16=0.34`."""
    return {int(lanes): float(seconds) for lanes, _, seconds in (text.partition("=") for text in texts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 100])
    parser.add_argument("--models", type=int, default=1)
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--shard", type=int, help="words in a shard (default: as the fleet chooses)")
    parser.add_argument("--step_seconds", nargs="+", default=["1=0.128", "16=0.34"], metavar="LANES=SECONDS")
    parser.add_argument("--measure", action="store_true", help="measure the times with the built-in model")
    parser.add_argument("--measure_steps", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    for name in ("load", "start", "encode", "judge", "check", "driver", "machine"):
        parser.add_argument(f"--{name}_seconds", type=float)
    parser.add_argument("--steps", type=int, help="of a word")
    parser.add_argument("--readers", type=int)
    parser.add_argument("--lost_every", type=float, help="hours between two losses of a machine, for each")
    args = parser.parse_args()
    costs = Costs(given_steps(args.step_seconds))
    if args.measure:
        with tempfile.TemporaryDirectory() as folder:
            costs = measure(Path(folder), (1, args.lanes) if args.lanes > 1 else (1,), args.measure_steps)
    names = ("load", "start", "encode", "judge", "check", "driver", "machine")
    given = {name: value for name in names if (value := getattr(args, f"{name}_seconds")) is not None}
    given |= {name: value for name in ("steps", "readers", "lost_every") if (value := getattr(args, name)) is not None}
    costs = replace(costs, **given)
    rows = []
    for words in args.words:
        for workers in args.workers:
            found = simulate(words, workers, costs, args.lanes, args.models, args.shard)
            helps = what_would_help(words, workers, costs, args.lanes, args.models, args.shard)
            rows.append({"words": words, "workers": workers, **asdict(found), "helps": helps})
            if not args.json:
                print(line_of(rows[-1]))
    if args.json:
        print(json.dumps({"costs": {**asdict(costs), "step": dict(costs.step)}, "lanes": args.lanes, "rows": rows}))


def line_of(row: Mapping[str, object]) -> str:
    """Return a row for people."""
    shares, helps = row["shares"], row["helps"]
    assert isinstance(shares, dict)
    assert isinstance(helps, dict)
    spent = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items() if share >= 0.005)
    best = ", ".join(f"{name} +{100 * gain:.0f} %" for name, gain in list(helps.items())[:2])
    return (
        f"{row['words']:>6} words, {row['workers']:>3} workers: {row['hours']:7.2f} h, "
        f"{row['words_per_worker_hour']:6.1f} words per worker-hour; {spent}; would help: {best}"
    )


if __name__ == "__main__":
    main()
