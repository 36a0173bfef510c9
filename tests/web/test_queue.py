"""Verify the queue with real runs: order, one per device, stopping, killing, going on, and another start of the page."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from neonym import ConfigError, UserError, train
from neonym.web import processes
from neonym.web.draft import Draft
from neonym.web.home import Home
from neonym.web.queue import Entry, Queue
from neonym.web.same_name import NameTaken, free_names
from neonym.web.saved_state import saved_step

LONG = 240.0  # seconds


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def draft(images) -> Draft:
    """Return the settings of a short run."""
    return Draft({
        "train_data_dir": str(images), "token_string": "mychar4", "init_word": "cat", "max_train_steps": 12, "cpu": True,
        "eval_samples": 8, "state_every_n_steps": 2, "learning_rate": "0.005",
    })  # fmt: skip


def until(queue: Queue, id: str, holds: Callable[[Entry], bool]) -> Entry:
    """Drive a queue until something holds for an entry, and return it."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        queue.tick()
        entry = queue.entry(id)
        assert entry is not None
        if holds(entry):
            return entry
        time.sleep(0.1)
    raise AssertionError(f"still {queue.entry(id)}: {queue.output(id, 40)}")


def word_of(home: Home) -> Path:
    return home.folder("outputs") / "mychar4.safetensors"


def test_a_run_is_stopped_and_goes_on_and_learns_what_it_would_have_learned_at_once(home, draft, tmp_path):
    queue = Queue(home, ["cpu"])
    id = queue.add(draft).id
    until(queue, id, lambda entry: queue.log(entry).step >= 3)
    queue.stop(id)
    stopped = until(queue, id, lambda entry: entry.status not in ("running", "stopping"))
    assert stopped.status == "stopped"
    assert not word_of(home).exists()
    queue.go_on(id)
    finished = until(queue, id, lambda entry: entry.status not in ("waiting", "running"))
    assert finished.status == "finished"
    log = queue.log(finished)
    assert (log.step, log.steps) == (12, 12)
    assert len(log.verdicts) == 1
    alone = Draft({**draft.values, "output_dir": str(tmp_path / "alone")})
    assert train(alone.run()).files[0].read_bytes() == word_of(home).read_bytes()


def test_a_killed_run_is_found_by_another_start_of_the_page_and_goes_on(home, draft):
    queue = Queue(home, ["cpu"])
    id = queue.add(draft).id
    entry = until(queue, id, lambda entry: queue.log(entry).step >= 3)
    again = Queue(home, ["cpu"])  # another page reads the same files
    again.tick()
    assert again.entry(id) == entry
    os.kill(entry.pid, signal.SIGKILL)
    killed = until(again, id, lambda entry: entry.status != "running")
    assert killed.status == "interrupted"
    again.go_on(id)
    assert until(again, id, lambda entry: entry.status not in ("waiting", "running")).status == "finished"
    assert word_of(home).is_file()


def test_a_run_is_asked_to_stop_once(home, draft, monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(processes.Process, "stop", lambda process: asked.append(process.pid))
    queue = Queue(home, ["cpu"])
    entry = queue.add(draft)
    queue.save(replace(entry, status="running", device="cpu", pid=5))
    for _ in range(2):  # a double click, or two tabs
        queue.stop(entry.id)
    assert asked == [5]


def test_a_run_that_ended_with_the_machine_goes_on_by_itself(home, draft):
    queue = Queue(home, ["cpu"])
    entry = queue.add(draft)
    queue.pause(True)
    for identity, status in (("another-boot 5", "waiting"), (processes.identity_of(1), "interrupted")):
        queue.save(replace(entry, status="running", device="cpu", pid=2**22 + 1, identity=identity))
        queue.tick()
        again = queue.entry(entry.id)
        assert again is not None
        assert again.status == status


def test_a_run_is_started_once_whoever_looks(home, draft, monkeypatch):
    started: list[int] = []

    def start(*_):
        started.append(1)
        time.sleep(0.05)
        return processes.Process(os.getpid(), processes.identity_of(os.getpid()))

    monkeypatch.setattr(processes, "start", start)
    queue = Queue(home, ["cpu"])
    queue.add(draft)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(queue.tick)
    assert started == [1]


def test_a_full_disk_does_not_start_a_run_again_and_again(home, draft, monkeypatch):
    started: list[int] = []
    monkeypatch.setattr(processes, "start", lambda *_: started.append(1))
    queue = Queue(home, ["cpu"])
    queue.add(draft)

    def full(self, entry):
        raise UserError("cannot be written (No space left on device)", "entry.json")

    monkeypatch.setattr(Queue, "save", full)
    for _ in range(3):
        with pytest.raises(UserError):
            queue.tick()
    assert started == []


def test_runs_wait_for_a_device_in_their_order(home, draft, monkeypatch):
    started: list[tuple[str, str]] = []

    def start(words, folder, log, device):
        started.append((Path(words[1].partition("=")[2]).parent.name, device))
        return processes.Process(os.getpid(), processes.identity_of(os.getpid()))

    monkeypatch.setattr(processes, "start", start)
    queue = Queue(home, ["cuda:0", "cuda:1"])
    ids = [queue.add(Draft({**draft.values, "token_string": f"mychar{i}"})).id for i in range(4)]
    queue.pause(True)
    queue.tick()
    assert started == []
    queue.move(ids[3], -1)
    queue.move(ids[3], -1)
    queue.move(ids[0], -1)  # it is the first already
    queue.stop(ids[1])
    queue.pause(False)
    queue.tick()
    queue.tick()
    assert started == [(ids[0], "cuda:0"), (ids[3], "cuda:1")]
    first = queue.entry(ids[0])
    assert first is not None
    queue.save(replace(first, status="finished"))
    queue.tick()
    assert started[2:] == [(ids[2], "cuda:0")]
    statuses = [entry.status for id in ids if (entry := queue.entry(id))]
    assert statuses == ["finished", "stopped", "running", "running"]


def test_settings_are_those_of_the_moment_when_the_run_was_queued(home, draft):
    queue = Queue(home, ["cpu"])
    queue.pause(True)
    entry = queue.add(draft, "a mychar4")
    draft.set("max_train_steps", 99)
    settings = queue.settings(entry.id)
    assert "max_train_steps = 12" in settings
    prompts = next(line for line in settings.splitlines() if line.startswith("sample_prompts"))
    assert Path(prompts.split('"')[1]).read_text() == "a mychar4"


def test_wrong_settings_are_not_queued(home, draft):
    draft.set("max_train_steps", "many")
    with pytest.raises(ConfigError):
        Queue(home, ["cpu"]).add(draft)
    assert Queue(home, ["cpu"]).entries() == []


def test_a_run_that_cannot_start_has_its_paragraph(home, draft):
    queue = Queue(home, ["cpu"])
    draft.set("pretrained_model_name_or_path", str(home.root / "missing.safetensors"))
    id = queue.add(draft).id
    failed = until(queue, id, lambda entry: entry.status not in ("waiting", "running"))
    assert failed.status == "failed"
    assert "missing.safetensors" in queue.output(id)
    queue.remove(id)
    assert queue.entries() == []


def test_a_damaged_entry_is_left_out(home, draft):
    queue = Queue(home, ["cpu"])
    queue.pause(True)
    entry = queue.add(draft)
    file = queue.folder(entry.id) / "entry.json"
    good = file.read_text()
    for bad in (
        "{",
        "[]",
        good.replace('"waiting"', '"odd"'),
        re.sub(r'"order": [\d.]+', '"order": null', good),
        good.replace('"others": []', '"others": [5]'),
        "[" * 10**5,
    ):
        file.write_text(bad)
        assert queue.entries() == []
    assert queue.entry("../..") is None


@pytest.mark.parametrize(
    ("words", "title"), [(["mychar4"], "mychar4"), (["mychar4", "zyzzo", "notoish"], "mychar4 and 2 more")]
)
def test_a_run_is_named_after_the_words_of_its_dataset_file(home, images, tmp_path, words, title):
    file = tmp_path / "data.toml"
    concepts = "".join(f'[[concepts]]\ntoken_string = "{word}"\n' for word in words)
    subsets = "".join(f'[[datasets.subsets]]\nimage_dir = "{images}"\nconcept = "{word}"\n' for word in words)
    file.write_text(f"{concepts}[[datasets]]\n{subsets}")
    queue = Queue(home, ["cpu"])
    queue.pause(True)
    entry = queue.add(Draft({"dataset_config": str(file), "output_dir": "mine"}))
    assert (entry.token, entry.run_folder) == (title, str(home.root / "mine" / "mychar4-run"))
    assert queue.entry(entry.id) == entry
    assert entry.others == tuple(words[1:])
    assert home.root / "mine" in home.named("outputs")


def test_a_run_that_does_not_stop_is_ended_with_what_it_started_and_goes_on(home, draft):
    queue = Queue(home, ["cpu"])
    id = queue.add(draft).id
    entry = until(queue, id, lambda entry: queue.log(entry).step >= 5)
    queue.end(id)  # nobody asked it to stop
    assert entry.process.running()
    try:
        os.kill(entry.pid, signal.SIGSTOP)
        queue.stop(id)
        queue.tick()
        hanging = queue.entry(id)
        assert hanging is not None
        assert (hanging.status, hanging.asked > 0, hanging.process.running()) == ("stopping", True, True)
        assert saved_step(Path(entry.run_folder)) >= 4  # the log may end before the state
    finally:
        queue.end(id)
    until(queue, id, lambda entry: entry.status == "stopped")
    queue.go_on(id)
    finished = until(queue, id, lambda entry: entry.status not in ("waiting", "running"))
    assert finished.status == "finished"
    log = queue.log(finished)
    assert [step for step, _ in log.losses] == sorted({step for step, _ in log.losses})
    assert log.losses[0][0] <= 4
    assert word_of(home).is_file()


def test_two_runs_of_one_name_have_their_own_numbers(home, draft):
    """The second one has other settings, and takes the place of the first."""
    queue = Queue(home, ["cpu"])
    first = queue.add(draft)
    until(queue, first.id, lambda entry: entry.status == "finished")
    with pytest.raises(NameTaken, match=r"other settings: learning_rate \(was 0.005, is 0.01\)") as taken:
        queue.add(Draft({**draft.values, "learning_rate": "0.01"}))
    assert taken.value.is_replaceable
    assert [entry.id for entry in queue.entries()] == [first.id]
    queue.replace_earlier(Path(first.run_folder))
    assert not word_of(home).exists()
    assert len(list(home.folder("bin").glob("*/mychar4.safetensors"))) == 1
    second = queue.add(Draft({**draft.values, "learning_rate": "0.01", "max_train_steps": 6}))
    assert queue.log(second).losses == []
    finished = until(queue, second.id, lambda entry: entry.status == "finished")
    ended = queue.entry(first.id)
    assert ended is not None
    assert [queue.log(entry).step for entry in (ended, finished)] == [12, 6]
    assert len(queue.log(ended).losses) >= len(queue.log(finished).losses) > 0
    with pytest.raises(UserError, match="another run of this name came after this one"):
        queue.go_on(first.id)


def test_a_run_with_more_steps_goes_on_with_the_one_before_and_shows_the_whole_curve(home, draft):
    queue = Queue(home, ["cpu", "cpu-2"])
    first = queue.add(draft)
    with pytest.raises(NameTaken, match="in the list already, and is waiting"):
        queue.add(draft)
    second = queue.add(Draft({**draft.values, "max_train_steps": 16}))
    until(queue, first.id, lambda entry: entry.status == "running")
    waiting = queue.entry(second.id)
    assert waiting is not None
    assert (waiting.status, queue.log(waiting).losses) == ("waiting", [])  # though a device is free
    until(queue, first.id, lambda entry: entry.status == "finished")
    finished = until(queue, second.id, lambda entry: entry.status == "finished")
    ended = queue.entry(first.id)
    assert ended is not None
    one, both = queue.log(ended), queue.log(finished)
    assert ((one.step, one.steps), (both.step, both.steps)) == ((12, 12), (16, 16))
    assert both.losses[: len(one.losses)] == one.losses
    assert len(both.losses) > len(one.losses)


def test_a_word_of_the_command_line_is_not_replaced_unasked(home, draft):
    word_of(home).write_bytes(b"a word")
    queue = Queue(home, ["cpu"])
    with pytest.raises(NameTaken, match="there is a word of this name"):
        queue.add(draft)
    assert next(free_names(home.folder("outputs") / "mychar4-run")) == "mychar4-2"
