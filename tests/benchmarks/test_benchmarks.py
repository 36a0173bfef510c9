"""The arithmetic of the benchmarks that compare: what they measure is seen by running them."""

import json
import sys

import numpy as np
import pytest

from benchmarks.early_stop import stop_index, threshold_figures
from benchmarks.families import KEPT
from benchmarks.families import main as measure_families
from benchmarks.timesteps import compare_scores


def test_scores_are_compared_in_pairs():
    first = np.array([[0.1, 0.5], [0.3, 0.5]])  # two seeds, two subjects
    row = compare_scores(first, first + np.array([[0.1, 0.0], [0.3, 0.2]]))
    assert row["difference"] == pytest.approx(0.15)
    assert row["standard_error"] == pytest.approx(0.05)  # of the subjects' 0.2 and 0.1
    assert row["better"] == 0.75
    assert (row["uniform"], row["stratified"]) == (pytest.approx(0.35), pytest.approx(0.5))


def test_a_run_is_stopped_on_paper_as_by_the_rule():
    falling = [1.0, 0.8, 0.6, 0.5, 0.5, 0.5, 0.5, 0.4]
    rising = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    assert stop_index(falling, 2, 0.1) == 4
    assert stop_index(rising, 2, 0.01) == 7
    row = threshold_figures(list(range(0, 40, 5)), [falling, rising], 2, 0.01)
    assert (row["first_step"], row["last_step"], row["stopped"]) == (20, 35, 0.5)
    assert row["kept_of_gain"] == pytest.approx((0.5 + 0.7) / (0.6 + 0.7))
    assert row["worst_above_lowest"] == pytest.approx(0.25)


def test_families_are_measured_next_to_their_estimated_weights(tmp_path, monkeypatch, capsys):
    """On tiny networks: every way of keeping weights gives nearly the same loss, and swapping the same one."""
    file = tmp_path / "families.json"
    monkeypatch.setattr(
        sys, "argv", ["families", "--tiny", "--families", "flux1", "--sides", "32", "--steps", "1", f"--json={file}"]
    )
    measure_families()
    rows = json.loads(file.read_text())["rows"]
    assert {row["kept"] for row in rows} == {str(kept) for kept in KEPT}
    assert all(row["estimated_weights_gb"] > 0 for row in rows)
    assert all(min(row["gradients"].values()) > 0 for row in rows)
    exact = [(row["loss"], row["gradients"]) for row in rows if row["kept"].startswith("fp8") and row["checkpointing"]]
    assert len(exact) == 2
    assert exact[0] == exact[1]
    assert len({round(row["loss"], 1) for row in rows}) == 1
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(rows)


def test_no_case_begins_when_the_minutes_are_up(tmp_path, monkeypatch):
    file = tmp_path / "families.json"
    monkeypatch.setattr(
        sys, "argv", ["families", "--tiny", "--families", "zimage", "--sides", "32", "--minutes=-1", f"--json={file}"]
    )
    measure_families()
    rows = json.loads(file.read_text())["rows"]
    assert [row["error"] for row in rows] == ["no time left"] * len(KEPT)
