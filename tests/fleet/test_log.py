"""Tests of the log of a fleet: a disk that is full for a while, and fleets that end before their workers are there."""

from __future__ import annotations

import json

import pytest

import neonym
from neonym.fleet.checking import Finding
from neonym.fleet.driver import Manner
from neonym.fleet.log import FleetLog
from neonym.fleet.output import LocalOutput
from neonym.fleet.run import Request, train_findings
from neonym.fleet.table import FleetTable
from neonym.fleet.words import Word
from support.fleets import log_of

WORD = Word("one", "one", {}, "words[0]")


class FullDisk(LocalOutput):
    """An output folder on a disk that may be full."""

    is_full = True

    def append(self, name: str, text: str) -> None:
        if self.is_full:
            raise OSError(28, "No space left on device")
        super().append(name, text)


def test_lines_that_cannot_be_written_are_written_later(tmp_path):
    output, warnings = FullDisk(tmp_path), list[str]()
    log = FleetLog(output, warnings.append)
    log.write("worker", worker="a")
    log.write("worker", worker="b")
    assert len(warnings) == 1
    output.is_full = False
    log.write("worker", worker="c")
    assert [line["worker"] for line in log_of(tmp_path)] == ["a", "b", "c"]
    output.is_full = True
    log.write("worker", worker="d")
    assert len(warnings) == 2


@pytest.mark.parametrize("error", [neonym.UserError("no cluster", "--ray auto"), KeyboardInterrupt()])
def test_a_fleet_without_workers_is_logged_as_stopped(tmp_path, monkeypatch, error):
    def fail(request):
        raise error

    monkeypatch.setattr("neonym.fleet.run.open_pool", fail)
    with pytest.raises(type(error)):
        train_findings([Finding(WORD, ())], LocalOutput(tmp_path), Request(Manner("")), neonym.Stop(), FleetTable())
    lines = [json.loads(line) for line in (tmp_path / "fleet.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["started", "stopped"]
    assert lines[-1]["waiting"] == 1
