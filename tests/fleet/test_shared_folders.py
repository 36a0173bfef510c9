"""Tests of workers that lack the folders of their driver: another disk at the same path, a folder that is not there."""

from __future__ import annotations

import pytest

import neonym
from neonym.fleet.output import LocalOutput
from neonym.fleet.pool import Assignment
from neonym.fleet.shared_folders import MARK, have_relative_paths
from neonym.fleet.words import Outcome, Shard, Word
from neonym.fleet.worker import Reports, work

WORD = Word("one", "one", {}, "words[0]")


def ended(given: Assignment) -> Outcome:
    (outcome,) = work(given, Reports(), neonym.Stop(), neonym.KeptModel())
    return outcome


def test_a_worker_with_another_disk_at_the_path_learns_nothing_there(tmp_path, monkeypatch):
    monkeypatch.setattr("neonym.fleet.shared_folders.MARK_SECONDS", 0)
    other = tmp_path / "other"
    other.mkdir()
    output = LocalOutput(tmp_path / "out")
    with output.claimed():
        outcome = ended(Assignment(Shard((WORD,)), str(other), None, None, 60, mark=output.mark))
        assert "is not the folder that the driver writes to" in outcome.machine
        assert not list(other.iterdir())
        here = ended(Assignment(Shard((WORD,)), str(output.folder), None, None, 60, mark=output.mark))
        assert not here.machine  # it fails for want of images
    assert not (output.folder / MARK).exists()


def test_a_worker_without_the_folder_of_relative_paths_hands_its_words_over(tmp_path):
    given = Assignment(Shard((WORD,)), "out", None, None, 60, start_folder=str(tmp_path / "missing"))
    assert "is missing, and the command has paths that are relative to it" in ended(given).machine


@pytest.mark.parametrize(
    ("settings", "place", "expected"),
    [
        ({"train_data_dir": "images"}, "/shared/out", True),
        ({"train_data_dir": "/images"}, "/shared/out", False),
        ({"concepts": [{"train_data_dir": "images"}]}, "s3://bucket/out", True),
        ({"token_string": "images", "optimizer_type": "AdamW"}, "s3://bucket/out", False),
        ({}, "out", True),
        ({"notes": "x" * 5000, "other": "a\0b"}, "/shared/out", False),
    ],
)
def test_relative_paths_are_found(tmp_path, monkeypatch, settings, place, expected):
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    assert have_relative_paths([Word("one", "one", settings, "words[0]")], place) is expected
