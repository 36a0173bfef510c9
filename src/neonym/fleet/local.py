"""Workers that are processes of this machine, one for each device."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Thread
from types import FrameType
from typing import cast

from neonym.fleet.pool import Assignment, Died, Done, Message, Ready, Reported

SECONDS_TO_END = 10.0  # for a process that is asked to
MOST_STARTS = 3  # of a worker whose processes die before they can do anything


@dataclass
class LocalWorker:
    """One process, and the connection to it."""

    name: str
    device: str
    process: BaseProcess
    connection: Connection
    starts: int = 1  # since it was last ready


class LocalPool:
    """A process for each device of this machine. One that dies is replaced."""

    def __init__(self, devices: Sequence[str], count: int | None = None):
        """Start a process for each device, or `count` processes."""
        chosen = [devices[i % len(devices)] for i in range(count or len(devices))]
        names = chosen if len(set(chosen)) == len(chosen) else [f"{device} #{i}" for i, device in enumerate(chosen)]
        self.is_stopping = False
        on_cpu = chosen.count("cpu")
        self.threads = max(1, (os.cpu_count() or 1) // on_cpu) if on_cpu > 1 else 0
        self.workers = {
            name: LocalWorker(name, device, *start(device, self.threads))
            for name, device in zip(names, chosen, strict=True)
        }

    def give(self, worker: str, assignment: Assignment) -> None:
        """Let a worker that is ready train a shard. One that has just died is noticed in `messages`."""
        try:
            self.workers[worker].connection.send(assignment)
        except OSError:
            return

    def messages(self, seconds: float) -> list[Message]:
        """Return what the workers have to say; wait for the first message for at most so many seconds."""
        by_connection = {worker.connection: worker for worker in self.workers.values()}
        heard: list[Message] = []
        for connection in wait(list(by_connection), timeout=seconds):
            worker = by_connection[cast(Connection, connection)]
            try:
                heard.append(self.heard(worker, worker.connection.recv()))
            except (EOFError, OSError):
                heard.append(self.died(worker))
        return heard

    def heard(self, worker: LocalWorker, what: tuple[str, object]) -> Message:
        """Return what a process has sent as a message of its worker."""
        kind, value = what
        if kind == "ready":
            worker.starts = 0
            return Ready(worker.name, worker.device)
        if kind == "done":
            return Done(worker.name, cast(list, value))
        return Reported(worker.name, *cast(tuple, value))

    def died(self, worker: LocalWorker) -> Died:
        """Replace a process that has died, unless its successors die as well before they do anything."""
        worker.connection.close()
        worker.process.join(SECONDS_TO_END)
        reason = f"its process ended with {described(worker.process.exitcode)}"
        if self.is_stopping or worker.starts >= MOST_STARTS:
            del self.workers[worker.name]
            return Died(worker.name, reason, is_lost=True)
        worker.starts += 1
        worker.process, worker.connection = start(worker.device, self.threads)
        return Died(worker.name, reason)

    def count(self) -> int:
        """Return the number of workers, those that are starting included."""
        return len(self.workers)

    def stop(self) -> None:
        """Ask every worker to stop after the present step of each word, with its state saved."""
        self.is_stopping = True
        for worker in self.workers.values():
            worker.process.terminate()

    def retire(self, worker: str) -> None:
        """End a worker that has nothing to do, for good."""
        self.end([self.workers.pop(worker)])

    def close(self) -> None:
        """End all workers, whatever they are doing."""
        self.end(list(self.workers.values()))
        self.workers = {}

    def end(self, workers: Sequence[LocalWorker]) -> None:
        """End workers: a process without a connection ends by itself, unless it is busy."""
        for worker in workers:
            worker.connection.close()
        for worker in workers:
            worker.process.join(SECONDS_TO_END)
            if worker.process.is_alive():
                worker.process.terminate()
                worker.process.join(SECONDS_TO_END)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def described(code: int | None) -> str:
    """Return the exit code of a process, or the signal that killed it, for a message."""
    if code is None or code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name


def start(device: str, threads: int) -> tuple[BaseProcess, Connection]:
    """Start a process that trains shards, and return it with our end of the connection.

    `threads` is its share of the cores, because processes that use the same ones slow each other many times; 0: all.
    """
    context = get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=serve, args=(its, device, threads), daemon=True, name=f"neonym fleet {device}")
    process.start()
    its.close()  # so that its end is the only one, and its death is noticed
    return process, ours


def serve(connection: Connection, device: str, threads: int) -> None:
    """Train the shards that the driver sends, in a process of its own, until the driver ends or asks for a stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver as well, which then asks
    Thread(target=end_with_parent, daemon=True).start()
    if device.startswith("cuda:"):
        os.environ["CUDA_VISIBLE_DEVICES"] = device.removeprefix("cuda:")
    if threads:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    import neonym
    from neonym.fleet.worker import Reports, work

    stop, kept, training = neonym.Stop(), neonym.KeptModel(), list[bool]()

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        if not training:
            raise SystemExit  # with the clean-up of libraries
        stop.request_at_once(number)

    signal.signal(signal.SIGTERM, ask)
    reports = Reports(lambda: connection.send(("reported", reports.take())))
    connection.send(("ready", None))
    while not stop.requested:
        try:
            given: Assignment = connection.recv()
        except (EOFError, OSError):
            return
        training.append(True)
        connection.send(("done", work(given, reports, stop, kept)))
        training.clear()


def end_with_parent() -> None:
    """End this process when its driver ends, even if that is killed: the state of every word is on the disk."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
