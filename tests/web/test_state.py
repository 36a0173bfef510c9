"""Verify that the word of a saved step becomes the word of its run only where that lasts and loses nothing."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from neonym import UserError
from neonym.web.bin import contents_of_bin
from neonym.web.home import Home
from neonym.web.model_list import ModelList
from neonym.web.queue import Entry, Queue
from neonym.web.state import State
from neonym.web.work import Workers


@pytest.fixture
def state(tmp_path) -> State:
    home, workers = Home(tmp_path / "home"), Workers()
    return State(home, Queue(home, ["cpu"]), workers, ModelList(home, workers))


@pytest.fixture
def entry(state) -> Entry:
    """Return a run that has ended, with its word."""
    outputs = state.home.folder("outputs")
    (outputs / "zyzzo.safetensors").write_text("the last step")
    (outputs / "zyzzo-step00000005.safetensors").write_text("step 5")
    entry = Entry("1", "zyzzo", str(outputs / "zyzzo-run"), "finished", device="cpu")
    state.queue.folder(entry.id).mkdir()
    state.queue.save(entry)
    return entry


def step_and_word(state: State) -> tuple[Path, Path]:
    outputs = state.home.folder("outputs")
    return outputs / "zyzzo-step00000005.safetensors", outputs / "zyzzo.safetensors"


def test_the_word_before_goes_to_the_bin(state, entry):
    step, word = step_and_word(state)
    assert state.use(entry, step) == word
    assert word.read_text() == "step 5"
    (deleted,) = contents_of_bin(state.home)
    assert (deleted.folder / word.name).read_text() == "the last step"


@pytest.mark.parametrize("status", ["running", "stopping"])
def test_a_run_that_goes_on_would_replace_the_word_again(state, entry, status):
    step, word = step_and_word(state)
    state.queue.save(replace(entry, status=status))  # since the page was opened
    with pytest.raises(UserError, match="zyzzo.safetensors: would be replaced .* Stop the run first"):
        state.use(entry, step)
    assert (word.read_text(), contents_of_bin(state.home)) == ("the last step", [])


def test_a_full_disk_leaves_the_word_where_it_is(state, entry, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    step, word = step_and_word(state)
    with pytest.raises(UserError, match="No space left on device"):
        state.use(entry, step)
    assert (word.read_text(), contents_of_bin(state.home)) == ("the last step", [])
