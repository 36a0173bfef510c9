"""Verify what is read from the events of a run while they are written."""

from __future__ import annotations

import json

import pytest

from neonym.web.run_log import RunLog


def test_a_log_is_read_as_it_grows(tmp_path):
    file = tmp_path / "events.jsonl"
    log = RunLog(file)
    assert not log.read()
    file.write_text(
        '{"event": "opened", "time": 1, "folder": "x", "words": ["a"]}\n{"event": "started", "time": 2, "fir'
    )
    assert log.read()
    assert log.status == "opened"
    with file.open("a") as opened:
        opened.write('st_step": 0, "steps": 10, "steps_per_epoch": 2, "samples_per_step": 4.0}\n')
        for step in range(1, 5):
            opened.write(
                f'{{"event": "step", "time": {2 + step}, "step": {step}, "losses": [0.{step}], "rates": [1]}}\n'
            )
        opened.write(
            '{"event": "new kind"}\nnot JSON\n{"event": "step", "time": 9, "step": 5, "losses": [null], "rates": [1]}\n'
        )
    log.read()
    assert (log.status, log.step, log.steps) == ("step", 5, 10)
    assert [loss for _, loss in log.losses] == [0.1, 0.2, 0.3, 0.4]
    assert log.images_per_second == pytest.approx(4 * 5 / 7)
    assert log.seconds_left == pytest.approx(7)
    file.write_text('{"event": "opened", "time": 1, "folder": "x", "words": ["b"]}\n')  # another run
    log.read()
    assert (log.words, log.step, log.losses) == (["b"], 0, [])


def test_a_letter_that_is_cut_in_two_is_read_whole(tmp_path):
    file = tmp_path / "events.jsonl"
    data = '{"event": "opened", "time": 1, "folder": "x", "words": ["é"]}\n'.encode()
    log = RunLog(file)
    cut = data.index("é".encode()) + 1
    for part in (data[:cut], data[cut:]):
        with file.open("ab") as opened:
            opened.write(part)
        log.read()
    assert log.words == ["é"]


def test_a_log_begins_with_its_own_run_and_takes_the_earlier_one_over_if_it_goes_on_with_it(tmp_path):
    file = tmp_path / "events.jsonl"

    def line(event: str, **values: object) -> str:
        return json.dumps({"event": event, "time": 1, **values}) + "\n"

    def started(first: int) -> str:
        return line("started", first_step=first, steps=9, samples_per_step=1)

    opened, steps = line("opened", words=["a"]), "".join(line("step", step=i, losses=[i]) for i in (1, 2, 3))
    before = opened + started(0) + line("evaluated", step=0, loss=9) + steps + line("note", text="early")
    file.write_text(before)
    begin = file.stat().st_size
    log = RunLog(file, begin)
    log.read()
    assert (log.losses, log.notes, log.step, log.status) == ([], [], 0, "")
    for first, losses in ((0, []), (2, [(1, 1), (2, 2)])):
        file.write_text(before + opened + started(first))
        for _ in range(2):
            log = RunLog(file, begin)
            log.read()
            log.read()
            assert (log.losses, log.notes) == (losses, [])
        assert log.evaluations == ([(0, 9)] if first else [])
    file.write_text(before + line("finished", verdicts=[], files=[]))  # it was finished already
    log = RunLog(file, begin)
    log.read()
    assert (log.status, log.step, log.steps, len(log.losses)) == ("finished", 3, 9, 3)
