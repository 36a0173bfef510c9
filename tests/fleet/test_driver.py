"""Tests of the driver with workers that follow a script: deaths, machines with full disks, workers that never come."""

from __future__ import annotations

from collections.abc import Callable

import neonym
from neonym.fleet.driver import MOST_DEATHS, Driver, Manner
from neonym.fleet.log import FleetLog
from neonym.fleet.output import LocalOutput
from neonym.fleet.pool import Assignment, Died, Done, Message, Ready, Reported
from neonym.fleet.progress import FleetProgress
from neonym.fleet.shards import cut
from neonym.fleet.words import Outcome, Progress, Word

WORDS = [Word(name, name, {}, f"words[{i}]", "g") for i, name in enumerate(("one", "two", "three"))]


class Script:
    """Workers that answer an assignment with what a function returns, which is called with worker and word names."""

    def __init__(self, answer: Callable[[str, list[str]], list[Message]], workers: list[str]):
        self.answer, self.workers = answer, workers
        self.heard: list[Message] = [Ready(worker, f"device of {worker}") for worker in workers]
        self.given: list[tuple[str, list[str]]] = []
        self.is_stopping = False

    def give(self, worker: str, assignment: Assignment) -> None:
        names = [word.name for word in assignment.shard.words]
        self.given.append((worker, names))
        self.heard += self.answer(worker, names)

    def messages(self, seconds: float) -> list[Message]:
        heard, self.heard = self.heard, []
        return heard

    def count(self) -> int:
        return len(self.workers)

    def stop(self) -> None:
        self.is_stopping = True

    def retire(self, worker: str) -> None:
        self.workers.remove(worker)

    def close(self) -> None:
        pass


def learned(worker: str, names: list[str]) -> list[Message]:
    return [Done(worker, [Outcome(name, "learned") for name in names])]


def died(worker: str) -> list[Message]:
    return [Died(worker, "it was killed"), Ready(worker, "again")]


def run(tmp_path, pool: Script, size: int = 3, stop: neonym.Stop | None = None) -> FleetProgress:
    progress = FleetProgress(WORDS)
    log = FleetLog(LocalOutput(tmp_path), print)
    driver = Driver(WORDS, cut(WORDS, (), 1, size), pool, Manner(""), progress, log, lambda now: None)
    driver.run(stop or neonym.Stop())
    return progress


def test_a_shard_is_done_again_after_a_death_without_what_was_learned(tmp_path):
    seen: list[list[str]] = []

    def answer(worker: str, names: list[str]) -> list[Message]:
        seen.append(names)
        if len(seen) == 1:
            return [Reported(worker, [], [Outcome("one", "learned")]), *died(worker)]
        return learned(worker, names)

    progress = run(tmp_path, Script(answer, ["w"]))
    assert seen == [["one", "two", "three"], ["two", "three"]]
    assert progress.counts()["learned"] == 3


def test_a_word_that_kills_its_processes_fails_alone(tmp_path):
    def answer(worker: str, names: list[str]) -> list[Message]:
        return died(worker) if "two" in names else learned(worker, names)

    pool = Script(answer, ["w"])
    progress = run(tmp_path, pool)
    assert progress.counts()["learned"] == 2
    text = "words[1]: 3 processes died while they trained it (it was killed)."
    assert progress.outcomes["two"].error == text
    assert pool.given.count(("w", ["two"])) == MOST_DEATHS


def test_a_word_whose_machines_are_taken_away_goes_on_as_long_as_it_advances(tmp_path):
    step = [0]

    def answer(worker: str, names: list[str]) -> list[Message]:
        if names != ["two"]:
            return learned(worker, names)
        step[0] += 10
        if step[0] > 100:
            return learned(worker, names)
        return [Reported(worker, [Progress("two", step[0], 100)], []), *died(worker)]

    assert run(tmp_path, Script(answer, ["w"]), size=1).counts()["learned"] == 3


def test_a_machine_with_a_full_disk_gets_no_more_words(tmp_path):
    def answer(worker: str, names: list[str]) -> list[Message]:
        if worker == "full":
            return [Done(worker, [Outcome(name, "failed", "disk", machine="No space left") for name in names])]
        return learned(worker, names)

    pool = Script(answer, ["full", "good"])
    progress = run(tmp_path, pool, size=1)
    assert progress.counts()["learned"] == 3
    assert [worker for worker, _ in pool.given].count("full") == 1
    assert pool.workers == ["good"]


def store_fails(worker: str, names: list[str]) -> list[Message]:
    return [Done(worker, [Outcome(name, "failed", "store", store="503") for name in names])]


def test_an_outage_of_the_store_retires_nobody(tmp_path):
    def answer(worker: str, names: list[str]) -> list[Message]:
        return store_fails(worker, names) if len(pool.given) <= 2 else learned(worker, names)

    pool = Script(answer, ["a", "b"])
    assert run(tmp_path, pool, size=1).counts()["learned"] == 3
    assert pool.workers == ["a", "b"]


def test_an_outage_with_one_worker_passes(tmp_path):
    pool = Script(lambda worker, names: (store_fails if len(pool.given) <= 3 else learned)(worker, names), ["w"])
    assert run(tmp_path, pool).counts()["learned"] == 3


def test_an_outage_without_end_fails_the_words(tmp_path):
    assert run(tmp_path, Script(store_fails, ["w"])).counts()["failed"] == 3


def test_a_worker_that_alone_has_trouble_with_the_store_is_retired(tmp_path):
    pool = Script(lambda worker, names: (store_fails if worker == "bad" else learned)(worker, names), ["bad", "good"])
    assert run(tmp_path, pool, size=1).counts()["learned"] == 3
    assert pool.workers == ["good"]
    assert [worker for worker, _ in pool.given].count("bad") == 2


def test_a_word_that_was_reported_is_not_done_again(tmp_path):
    def answer(worker: str, names: list[str]) -> list[Message]:
        if worker == "good":
            return learned(worker, names)
        faults = [Outcome(name, "failed", "disk", machine="No space left") for name in names]
        return [Reported(worker, [], [Outcome(names[0], "learned")]), Done(worker, faults)]

    pool = Script(answer, ["full", "good"])
    progress = run(tmp_path, pool, size=2)
    assert progress.counts()["learned"] == 3
    assert [name for worker, names in pool.given if worker == "good" for name in names].count("one") == 0


def test_a_full_disk_everywhere_fails_with_its_paragraph(tmp_path):
    def answer(worker: str, names: list[str]) -> list[Message]:
        return [Done(worker, [Outcome(name, "failed", "the disk is full", machine="No space left") for name in names])]

    progress = run(tmp_path, Script(answer, ["a", "b"]))
    assert progress.counts()["failed"] == 3
    assert {outcome.error for outcome in progress.outcomes.values()} == {"the disk is full"}


def test_without_any_worker_the_words_fail(tmp_path):
    pool = Script(learned, [])
    pool.heard = [Died("w", "it cannot start (no neonym there)", is_lost=True)]
    progress = run(tmp_path, pool)
    assert progress.counts()["failed"] == 3
    assert "nothing left to train it on (w: it cannot start (no neonym there))" in progress.outcomes["one"].error


def test_a_fleet_without_a_worker_says_so_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("neonym.fleet.driver.PATIENCE", 0)
    pool = Script(learned, ["w"])
    silent = [1, 2, 3]
    pool.messages = lambda seconds, clean=pool.messages: clean(seconds) if not silent else silent.pop() and []
    assert run(tmp_path, pool).counts()["learned"] == 3
    assert capsys.readouterr().out.count("no worker is ready yet") == 1


def test_a_worker_that_somebody_stops_does_not_end_the_fleet(tmp_path):
    seen: list[list[str]] = []

    def answer(worker: str, names: list[str]) -> list[Message]:
        seen.append(names)
        if len(seen) == 1:
            return [Done(worker, [Outcome(name, "stopped", step=3) for name in names]), *died(worker)]
        return learned(worker, names)

    assert run(tmp_path, Script(answer, ["w"])).counts()["learned"] == 3


def test_a_stop_waits_for_the_workers(tmp_path):
    stop = neonym.Stop()

    def answer(worker: str, names: list[str]) -> list[Message]:
        stop.request()
        ended: list[Outcome] = [Outcome("one", "learned"), *(Outcome(name, "stopped") for name in names[1:])]
        return [Done(worker, ended)]

    pool = Script(answer, ["w"])
    pool.messages = lambda seconds, clean=pool.messages: (
        clean(seconds) if not stop.requested or pool.is_stopping else []
    )
    progress = run(tmp_path, pool, stop=stop)
    assert pool.is_stopping
    assert progress.counts() == {
        "waiting": 2, "running": 0, "learned": 1, "weak": 0, "not learned": 0, "failed": 0
    }  # fmt: skip
