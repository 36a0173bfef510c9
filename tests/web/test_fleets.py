"""Verify that the page shows fleets: what their logs say about each word, as text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from neonym.web import json_lines
from neonym.web.fleets import Fleet, fleets_in
from neonym.web.home import Home
from neonym.web.pages.fleet import headline, rows
from support import ROOT
from support.data_sets import make_images


def write_log(folder: Path, *events: dict) -> Fleet:
    """Append lines to the log of a fleet, and return what is read of it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "fleet.jsonl").open("a") as log:
        log.writelines(json.dumps({"time": 0, **event}) + "\n" for event in events)
    fleet = Fleet(folder)
    fleet.read()
    return fleet


STARTED = {"event": "started", "words": ["a", "b", "c"]}
SHARD = {"event": "shard", "worker": "w", "words": ["a", "b"]}


def ended(word: str, ending: str, **facts: object) -> dict:
    """Return the line of a word that has ended."""
    return {"event": "word", "word": word, "ending": ending, "step": 5, "files": [], **facts}


def test_words_wait_run_and_end(tmp_path):
    assert write_log(tmp_path, STARTED).counts() == {"waiting": 3}
    assert write_log(tmp_path, SHARD).counts() == {"waiting": 1, "running": 2}
    fleet = write_log(tmp_path, ended("a", "learned", reason="it is"), {"event": "died", "worker": "w", "reason": ""})
    assert fleet.counts() == {"waiting": 2, "learned": 1}
    assert fleet.is_running
    assert [each["step"] for each in rows(fleet)] == [5, None, None]  # it is known at the end of a word
    fleet = write_log(tmp_path, ended("b", "failed", error="no images"), {"event": "ended"})
    assert fleet.counts() == {"waiting": 1, "learned": 1, "failed": 1}
    assert (fleet.words["a"].text, fleet.words["b"].text, fleet.is_running) == ("it is", "no images", False)


def test_the_same_command_tries_failed_words_again(tmp_path):
    fleet = write_log(tmp_path, STARTED, ended("a", "failed"), ended("b", "learned"), {"event": "ended"}, STARTED)
    assert fleet.counts() == {"waiting": 2, "learned": 1}


def test_failed_words_stay_failed_while_the_fleet_goes_on(tmp_path):
    died = {"event": "died", "worker": "w", "reason": ""}
    fleet = write_log(tmp_path, STARTED, SHARD, ended("a", "failed", error="no images"), died)
    assert (fleet.words["a"].state, fleet.words["b"].state) == ("failed", "waiting")


@pytest.mark.parametrize("event", ["died", "lost"])
def test_the_words_of_a_worker_that_is_gone_wait_unless_another_one_has_them(tmp_path, event):
    other = {"event": "shard", "worker": "v", "words": ["b"]}
    fleet = write_log(tmp_path, STARTED, SHARD, other, {"event": event, "worker": "w", "reason": "its disk is full"})
    assert {name: word.state for name, word in fleet.words.items()} == {"a": "waiting", "b": "running", "c": "waiting"}


def test_a_log_of_any_length_is_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "MOST", 50)
    fleet = write_log(tmp_path, STARTED, SHARD, ended("a", "learned"), {"event": "ended"})
    assert (fleet.counts(), fleet.is_running) == ({"waiting": 2, "learned": 1}, False)


def test_a_fleet_whose_command_was_killed_is_not_said_to_run(tmp_path):
    fleet = write_log(tmp_path, STARTED, SHARD)
    assert headline(fleet) == "3 words: 1 waiting, 2 running. It is running."
    ago = time.time() - 12.5 * 60
    os.utime(tmp_path / "fleet.jsonl", (ago, ago))
    assert headline(fleet).endswith("It has not reported for 12 min: its command may have been ended.")
    (tmp_path / "a" / "a-run").mkdir(parents=True)
    (tmp_path / "a" / "a-run" / "events.jsonl").touch()  # a word that takes long
    assert headline(fleet).endswith("It is running.")
    write_log(tmp_path, {"event": "ended"})
    fleet.read()
    os.utime(tmp_path / "fleet.jsonl", (ago, ago))
    assert headline(fleet).endswith("It has ended.")


@pytest.mark.parametrize(
    "line", ["", "{", "[]", '{"event": 5}', '{"event": "word"}', '{"event": "shard", "worker": [], "words": 3}', "\x00",
     '{"event": "word", "word": "a", "ending": "learned", "step": 1e999}'],
)  # fmt: skip
def test_damaged_lines_are_skipped(tmp_path, line):
    write_log(tmp_path, STARTED)
    with (tmp_path / "fleet.jsonl").open("a") as log:
        log.write(line + "\n")
    assert write_log(tmp_path, SHARD).counts() == {"waiting": 1, "running": 2}


def test_only_fleets_in_the_output_folders_are_found(tmp_path):
    home = Home(tmp_path / "home")
    write_log(tmp_path / "elsewhere", STARTED)
    write_log(home.folder("outputs"), STARTED)
    assert fleets_in(home) == [home.folder("outputs")]


def test_a_fleet_is_followed_on_the_page(start, tab: Page, tmp_path):
    """A real fleet is trained; the page shows its words, which lead to their own pages."""
    home, plan = Home(tmp_path / "home"), tmp_path / "plan.toml"
    make_images(tmp_path / "a", 3, caption="a sticker of a zyzzo")
    plan.write_text(
        f"[settings]\nmax_train_steps = 2\neval_samples = 8\ncpu = true\n[[words]]\ntoken = 'zyzzo'\nfolder = '{tmp_path / 'a'}'\n"
        f"[[words]]\ntoken = 'broken'\nfolder = '{tmp_path / 'nowhere'}'\n"
    )
    out = home.folder("outputs") / "fleet"
    command = [sys.executable, "-m", "neonym", "fleet", str(plan), f"--output_dir={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2, done.stderr
    home.make_and_add_folder("outputs", str(out))
    server = start()
    tab.goto(f"{server.url}/runs")
    tab.get_by_role("link", name="Fleet: fleet").click()
    expect(tab.get_by_text("It has ended.")).to_be_visible()
    expect(tab.get_by_role("row", name="broken failed")).to_contain_text("is not a folder")
    write_log(out, {"event": "started", "words": ["zyzzo", "<img src=x onerror=alert(1)>"]})
    expect(tab.get_by_text("It is running.")).to_be_visible()
    hostile = tab.get_by_role("row", name="<img src=x onerror=alert(1)> waiting")
    expect(hostile.get_by_role("cell")).to_have_text(["<img src=x onerror=alert(1)>", "waiting", "", ""])
    tab.get_by_role("link", name="zyzzo").click()
    expect(tab.get_by_role("heading", name="zyzzo").first).to_be_visible()
