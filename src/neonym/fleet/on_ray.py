"""Workers that are actors of Ray, on all machines of a cluster. A Ray cluster must be on a trusted network."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported
import ray
from ray.exceptions import RayError

import neonym
from neonym.errors import UserError
from neonym.fleet.pool import Assignment, Died, Done, Message, Ready, Reported

LOOPBACK = "127.0.0.1"
SECONDS_TO_ANSWER = 15.0  # for the head of a cluster
SECONDS_TO_FETCH = 60.0  # for encoded images in the object store; encoding them again takes about as long


@dataclass(frozen=True)
class Size:
    """The number of actors, and what each one takes of its machine."""

    workers: int
    cpus: int
    gpus: int


def size_for(nodes: Sequence[Mapping[str, float]], workers: int | None, gpus: int | None = None) -> Size:
    """Return the actors for machines with these resources: one for each GPU, or else one for each machine.

    More than one process on the cores of a machine would slow each other, unless `workers` asks for them. `gpus` are
    those of each actor, which cannot be known from a cluster that starts its machines when they are needed.
    """
    present = int(sum(node.get("GPU", 0) for node in nodes))
    each_gpus = min(present, 1) if gpus is None else gpus
    if each_gpus:
        return Size(workers or max(1, present // each_gpus), 1, each_gpus)
    cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    count = workers or max(1, len(cpus))
    each = min(cpus, default=1)
    while each > 1 and sum(own // each for own in cpus) < count:
        each -= 1
    return Size(count, each, 0)


class Trainer:
    """An actor that trains one shard at a time; Ray restarts it, on another machine if it has to."""

    def __init__(self, folder: str):
        from neonym.fleet.worker import Reports

        if Path(folder).is_dir():  # relative paths in the plan are those of the driver
            os.chdir(folder)
        self.reports, self.stop, self.kept = Reports(), neonym.Stop(), neonym.KeptModel()

    @ray.method(concurrency_group="talking", max_task_retries=-1)
    def ready(self) -> tuple[str, str]:
        """Return the name of the device and the version of Neonym, once the actor runs."""
        device = f"cuda:{','.join(map(str, ids))}" if (ids := ray.get_gpu_ids()) else "cpu"
        return f"{socket.gethostname()} {device}", neonym.__version__

    @ray.method(concurrency_group="training")
    def train(self, given: Assignment, encoded: Mapping[str, Any]) -> list[Any]:
        """Return how each word of a shard ended. Models stay loaded between two calls.

        `encoded` are the objects that hold encoded regularisation images, by the names of their entries.
        """
        from neonym.fleet.worker import work

        self.kept.moments.fetch = partial(fetched, encoded)
        return work(given, self.reports, self.stop, self.kept)

    @ray.method(concurrency_group="talking", num_returns=2)
    def news(self) -> tuple[Any, Any]:
        """Return what is new about the words of the present shard, and the regularisation images encoded meanwhile.

        The latter are an object of their own, which belongs to the driver: it outlives this actor.
        """
        encoded = self.kept.moments.take_new()
        return (*self.reports.take(), tuple(encoded)), encoded

    @ray.method(concurrency_group="talking")
    def ask_to_stop(self) -> None:
        """Stop after the present step of each word, with its state saved."""
        self.stop.request()


@dataclass
class RayWorker:
    """An actor, and what it has been asked for."""

    name: str
    actor: Any
    starting: Any = None  # the answer of `ready`
    training: Any = None  # the answer of `train`
    news: Any = None
    encoded: Any = None  # the regularisation images that `news` names


class RayPool:
    """Actors on all machines of a Ray cluster."""

    def __init__(self, address: str, workers: int | None = None, gpus: int | None = None):
        """Connect to the cluster at an address, or to the one that `auto` finds, or start a `local` one.

        Raises UserError if there is none.
        """
        local = {"_node_ip_address": LOOPBACK, "include_dashboard": False} if address == "local" else {}
        try:
            answers(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
        except (OSError, ValueError, RuntimeError, RayError) as error:
            fix = "Start one with `ray start --head`, or use --ray local"
            what = f"no Ray cluster can be reached ({first_line(error)})"
            raise UserError(what, f"--ray {address}", fix) from error
        size = size_for([node["Resources"] for node in ray.nodes() if node["Alive"]], workers, gpus)
        options: dict[str, Any] = {"num_cpus": size.cpus, "num_gpus": size.gpus, "scheduling_strategy": "SPREAD"}
        options |= {"max_restarts": -1, "concurrency_groups": {"training": 1, "talking": 1}}
        kind: Any = ray.remote(**options)(Trainer)
        made = [kind.remote(str(Path.cwd())) for _ in range(size.workers)]
        self.workers = {f"worker {i}": RayWorker(f"worker {i}", actor) for i, actor in enumerate(made)}
        self.encoded: dict[str, Any] = {}  # the object that holds each regularisation image; none is fetched here
        for worker in self.workers.values():
            worker.starting = worker.actor.ready.remote()

    def give(self, worker: str, assignment: Assignment) -> None:
        """Let a worker that is ready train a shard."""
        self.workers[worker].training = self.workers[worker].actor.train.remote(assignment, self.encoded)

    def messages(self, seconds: float) -> list[Message]:
        """Return what the workers have to say; wait for the first message for at most so many seconds."""
        heard: list[Message] = []
        awaited = {ref: w for w in self.workers.values() for ref in (w.starting, w.training) if ref is not None}
        ended = ray.wait(list(awaited), timeout=seconds)[0] if awaited else []
        for worker in list(self.workers.values()):
            heard += self.news_of(worker)
        for ref in ended:
            worker = awaited[ref]
            heard.append(self.started(worker) if ref is worker.starting else self.trained(worker))
        return heard

    def news_of(self, worker: RayWorker) -> list[Message]:
        """Return what a worker has answered about its words, and ask it again."""
        heard: list[Message] = []
        if worker.news is not None and ray.wait([worker.news], timeout=0)[0]:
            try:
                progress, outcomes, encoded = ray.get(worker.news)
                heard.append(Reported(worker.name, progress, outcomes))
                self.encoded |= dict.fromkeys(encoded, worker.encoded)  # the last one: an earlier one may be lost
            except RayError:  # it has died, as the answer of `train` will say
                pass
            worker.news = worker.encoded = None
        if worker.news is None and worker.training is not None:
            worker.news, worker.encoded = worker.actor.news.remote()
        return heard

    def started(self, worker: RayWorker) -> Message:
        """Return that a worker is ready, or that it can never be."""
        answer, worker.starting = worker.starting, None
        try:
            device, version = ray.get(answer)
        except RayError as error:
            del self.workers[worker.name]
            return Died(worker.name, f"it cannot start ({first_line(error)})", is_lost=True)
        if version != neonym.__version__:
            self.retire(worker.name)
            return Died(worker.name, f"{device} has Neonym {version}, not {neonym.__version__}", is_lost=True)
        return Ready(worker.name, device)

    def trained(self, worker: RayWorker) -> Message:
        """Return that a worker has done its shard, or that it has died."""
        answer, worker.training = worker.training, None
        try:
            return Done(worker.name, ray.get(answer))
        except RayError as error:
            worker.starting = worker.actor.ready.remote()  # answered once Ray has restarted the actor
            return Died(worker.name, first_line(error))

    def count(self) -> int:
        """Return the number of workers, those that are starting included."""
        return len(self.workers)

    def stop(self) -> None:
        """Ask every worker to stop after the present step of each word, with its state saved."""
        for worker in self.workers.values():
            worker.actor.ask_to_stop.remote()

    def retire(self, worker: str) -> None:
        """End a worker that has nothing to do, for good."""
        ray.kill(self.workers.pop(worker).actor)

    def close(self) -> None:
        """End all workers, whatever they are doing, and leave the cluster."""
        for worker in self.workers.values():
            ray.kill(worker.actor)
        self.workers = {}
        ray.shutdown()


def fetched(encoded: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return those of the named regularisation images that an object holds, in one request; none if one is lost."""
    wanted = {name: encoded[name] for name in names if name in encoded}
    try:
        held = ray.get(list(dict.fromkeys(wanted.values())), timeout=SECONDS_TO_FETCH)
    except RayError:
        return {}
    return {name: moments for part in held for name, moments in part.items() if name in wanted}


def answers(address: str) -> None:
    """Raise OSError if nothing listens at an address: Ray would try for minutes."""
    host, mark, port = address.rpartition(":")
    if mark and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()


def first_line(error: Exception) -> str:
    """Return the first line of an error, which for Ray's may have hundreds."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
