"""The arithmetic of the simulated fleet: its hours against those that can be worked out by hand."""

from dataclasses import replace

import pytest

from benchmarks.fleet_plan import HOUR, Costs, simulate, what_would_help

FREE = Costs({1: 1.0}, load=0, start=0, encode=0, judge=0, check=0, driver=0, steps=36, spread=0)


def test_one_lane_takes_the_sum_of_all_steps():
    found = simulate(100, 1, FREE, lanes=1)
    assert found.hours == pytest.approx(1.0)
    assert found.words_per_worker_hour == pytest.approx(100)
    assert found.shares["training"] == pytest.approx(1.0)


def test_lanes_share_a_step_and_a_waiting_word_takes_a_free_lane():
    both = replace(FREE, step={1: 1.0, 2: 1.5})
    assert simulate(100, 1, both, lanes=2).hours == pytest.approx(0.75)
    assert both.step_seconds(2) == 1.5
    assert replace(FREE, step={1: 1.0, 4: 2.5}).step_seconds(3) == 2.0
    assert replace(FREE, step={1: 1.0, 4: 2.5}).step_seconds(6) == 3.5


def test_the_model_is_loaded_once_by_each_worker_and_the_storage_is_shared():
    costs = replace(FREE, load=36.0, readers=1)
    assert simulate(100, 1, costs, lanes=1).hours == pytest.approx(1.01)
    assert simulate(100, 2, costs, lanes=1).hours == pytest.approx((50 * 36 + 2 * 36) / HOUR)  # the second reads slowly
    assert simulate(100, 1, costs, lanes=1, models=2).hours == pytest.approx(1.02)


def test_checks_and_judging_count():
    costs = replace(FREE, check=8.0, checkers=8, judge=36.0)
    assert simulate(100, 1, costs, lanes=1).hours == pytest.approx(2.0 + 100 / HOUR)


def test_machines_that_are_taken_away_cost_time_but_no_word():
    found = simulate(100, 4, replace(FREE, lost_every=0.2), lanes=1)
    still = simulate(100, 4, FREE, lanes=1)
    assert found.losses > 0
    assert found.hours > still.hours
    assert found.shares["training"] * found.hours == pytest.approx(still.shares["training"] * still.hours, rel=0.05)


def test_what_would_help_names_the_bottleneck():
    helps = what_would_help(100, 4, replace(FREE, judge=100.0), 1, 1, None)
    assert next(iter(helps)) == "verdicts for nothing"
    assert helps["models loaded for nothing"] == pytest.approx(0)
