"""Verify in a real browser that saved steps are chosen by eye, and that a run that hangs is ended."""

from __future__ import annotations

import os
import re
import signal
import time

from playwright.sync_api import Page, expect

from neonym.web.draft import Draft
from neonym.web.home import Home
from neonym.web.pages import run as run_page
from neonym.web.queue import Entry, Queue
from support.accessibility import check_accessible
from support.data_sets import make_images

LONG = 180_000  # milliseconds


def test_saved_steps_without_sample_images_get_one_each(start, tab: Page, tmp_path):
    images = make_images(tmp_path / "images", count=2, caption="a mychar4")
    values = {
        "train_data_dir": str(images), "token_string": "mychar4", "max_train_steps": 6, "save_every_n_steps": 3,
        "cpu": True, "eval_samples": 8,
    }  # fmt: skip
    queue = Queue(Home(tmp_path / "home"), ["cpu"])
    entry = queue.add(Draft(values))
    server = start()
    tab.goto(f"{server.url}/run/{entry.id}")
    expect(tab.get_by_role("button", name="Look at the word, and try it")).to_be_visible(timeout=LONG)
    steps = tab.get_by_alt_text(re.compile(r"a \{word\} here, at step \d"))
    expect(tab.get_by_role("button", name="use the word of step").first).to_be_visible()
    expect(steps).to_have_count(0)
    tab.get_by_label("Prompt; {word}").fill("a {word} here")
    tab.get_by_role("button", name="Generate an image of each").click()
    saved = len(queue.log(queue.entries()[0]).saved)
    assert saved >= 1
    expect(steps).to_have_count(saved, timeout=LONG)
    check_accessible(tab)
    files = list((server.home / "cache").glob("step-*/00.png"))
    before = {file: file.stat().st_mtime_ns for file in files}
    tab.reload()
    expect(steps).to_have_count(saved)  # they are kept
    tab.get_by_role("button", name="Generate an image of each").click()
    expect(tab.get_by_role("button", name="Generate an image of each")).to_be_enabled()
    assert before == {file: file.stat().st_mtime_ns for file in (server.home / "cache").glob("step-*/00.png")}
    tab.get_by_role("button", name="use the word of step").first.click()
    expect(tab.get_by_text("is now the word of")).to_be_visible()


def test_a_run_that_hangs_is_ended_from_the_page_and_gone_on_with(start, tab: Page, tmp_path):
    images = make_images(tmp_path / "images", count=2, caption="a mychar4")
    values = {
        "train_data_dir": str(images), "token_string": "mychar4", "max_train_steps": 2000, "cpu": True,
        "eval_samples": 8, "state_every_n_steps": 1,
    }  # fmt: skip
    queue = Queue(Home(tmp_path / "home"), ["cpu"])
    entry = queue.add(Draft(values))
    server = start()
    tab.goto(f"{server.url}/run/{entry.id}")
    expect(tab.get_by_text(re.compile(r"step [1-9]\d* of 2000"))).to_be_visible(timeout=LONG)
    (running,) = queue.entries()
    try:
        os.kill(running.pid, signal.SIGSTOP)
        end_on_the_page(tab, running)
    finally:
        running.process.end()
    tab.get_by_role("button", name="Go on").click()
    expect(tab.get_by_text(re.compile(r"step \d+ of 2000"))).to_be_visible(timeout=LONG)
    tab.get_by_role("button", name="Stop").click()
    expect(tab.get_by_role("button", name="Go on")).to_be_visible(timeout=LONG)


def end_on_the_page(tab: Page, running: Entry) -> None:
    """Ask a run to stop, which it does not, and end it as soon as the page offers that."""
    tab.get_by_role("button", name="Stop").click()
    expect(tab.get_by_text("It stops after its current step")).to_be_visible()
    started = time.monotonic()
    expect(tab.get_by_role("button", name="End it now")).to_be_visible()
    assert time.monotonic() - started > run_page.PATIENCE - 5
    tab.get_by_role("button", name="End it now").click()
    expect(tab.get_by_text(re.compile(r"The run can go on after step \d+"))).to_be_visible()
    tab.get_by_role("button", name="Cancel").click()
    expect(tab.get_by_role("dialog")).to_have_count(0)
    assert running.process.running()
    tab.get_by_role("button", name="End it now").click()
    tab.get_by_role("dialog").get_by_role("button", name="End it now").click()
    expect(tab.get_by_role("button", name="Go on")).to_be_visible()
    assert not running.process.running()
