"""A stop is obeyed within a step, whatever a run is doing, and leaves nothing to do twice."""

import signal
from pathlib import Path

import pytest

from neonym.cli.train import stopping
from neonym.runs.events import Silent, Stopped, stopping_at_once
from neonym.training import run as loop


class StopsIn(Silent):
    """Asks for a stop in a phase of the run, or with a step, and counts the predictions of the verdict."""

    def __init__(self, phase: str = "", done: int = 0, step: int = 0):
        self.when, self.stop_at, self.judged = (phase, done), step, 0

    def phase(self, name: str, done: int, total: int) -> None:
        del total
        self.judged = done if name == "judged" else self.judged
        if (name, done) == self.when:
            self.stop_wanted = signal.SIGINT

    def step(self, step, losses) -> None:
        del losses
        if step == self.stop_at:
            self.stop_wanted = signal.SIGTERM


def file_of(run) -> bytes:
    return (Path(run.save.output_dir) / "mychar4.safetensors").read_bytes()


def test_a_stop_within_the_verdict_keeps_the_last_step(run_for):
    whole, run, report = run_for("whole"), run_for(), StopsIn("judged", 2)
    verdict = loop.train(whole).verdicts[0]
    stopped = loop.train(run, report)
    assert (stopped.signal, stopped.steps, stopped.files) == (signal.SIGINT, 8, [])
    assert report.judged == 2  # the very next prediction is not made
    assert not (Path(run.save.output_dir) / "mychar4.safetensors").exists()
    again = loop.train(run)
    assert again.verdicts[0] == verdict
    assert file_of(run) == file_of(whole)


def test_a_stop_within_an_evaluation_loses_none(run_for):
    """The evaluation that is cut off is made by the next start: early stopping sees the same curve."""
    options = {"early_stop": True, "eval_every_n_steps": 2, "early_stop_window": 2, "early_stop_threshold": 0.9}
    whole, run = run_for("whole", **options), run_for(**options)
    expected = loop.train(whole)
    stopped = loop.train(run, StopsIn(step=2))
    assert (stopped.signal, stopped.steps) == (signal.SIGTERM, 2)
    again = loop.train(run)
    assert (again.steps, again.verdicts) == (expected.steps, expected.verdicts)
    assert file_of(run) == file_of(whole)


def test_a_stop_while_images_are_encoded(run_for):
    assert loop.train(run_for(), StopsIn("encoded", 3)).signal == signal.SIGINT
    assert loop.train(run_for()).steps == 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_block_that_has_nothing_to_save(number):
    report = Silent()
    with stopping(report), pytest.raises(Stopped), stopping_at_once(report):
        signal.raise_signal(number)
    assert report.stop_wanted == number
    assert not report.stops_at_once
    with pytest.raises(Stopped), stopping_at_once(report):  # asked for before the block
        raise AssertionError("the block was entered")
