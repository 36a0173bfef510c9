"""Tests of stops: a run obeys within a step, whatever it is doing, and repeats no work when it continues."""

import signal
import threading
from pathlib import Path

import pytest

from neonym import train
from neonym.cli.signals import stopping
from neonym.runs.events import Encoded, Event, Judging
from neonym.runs.stop import Stop, StopRequested
from support.runs import stop_at


class StopDuring:
    """A listener that requests a stop in a phase of the run, and records the last progress of that phase."""

    def __init__(self, kind: type[Encoded] | type[Judging], done: int):
        self.stop, self.kind, self.at, self.done = Stop(), kind, done, 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, (Encoded, Judging)) and isinstance(event, self.kind):
            self.done = event.done
            if event.done == self.at:
                self.stop.request(signal.SIGINT)


def file_of(run) -> bytes:
    """Return the content of a run's embedding file."""
    return (Path(run.save.output_dir) / "mychar4.safetensors").read_bytes()


def test_a_stop_during_the_verdict_keeps_the_last_step(run_for):
    whole, run, report = run_for("whole"), run_for(), StopDuring(Judging, 2)
    verdict = train(whole).verdicts[0]
    stopped = train(run, [report], report.stop)
    assert (stopped.signal, stopped.steps, stopped.files) == (signal.SIGINT, 8, [])
    assert report.done == 2  # no further prediction is made
    assert not (Path(run.save.output_dir) / "mychar4.safetensors").exists()
    again = train(run)
    assert again.verdicts[0] == verdict
    assert file_of(run) == file_of(whole)


def test_a_stop_during_an_evaluation_repeats_it_later(run_for):
    """An interrupted evaluation is repeated on resuming, so that early stopping sees the same curve."""
    options = {"early_stop": True, "eval_every_n_steps": 2, "early_stop_window": 2, "early_stop_threshold": 0.9}
    whole, run = run_for("whole", **options), run_for(**options)
    expected = train(whole)
    stopped = train(run, **stop_at(2))
    assert (stopped.signal, stopped.steps) == (signal.SIGTERM, 2)
    again = train(run)
    assert (again.steps, again.verdicts) == (expected.steps, expected.verdicts)
    assert file_of(run) == file_of(whole)


def test_a_stop_during_encoding_ends_it(run_for):
    report = StopDuring(Encoded, 3)
    assert train(run_for(), [report], report.stop).signal == signal.SIGINT
    assert report.done == 3  # no further image is encoded
    assert train(run_for()).steps == 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_block_that_has_nothing_to_save(number):
    stop = Stop()
    with stopping(stop), pytest.raises(StopRequested), stop.at_once():
        signal.raise_signal(number)
    assert stop.requested
    assert stop.signal == number
    stop.request_at_once(number)  # raises nothing outside such a block
    with pytest.raises(StopRequested), stop.at_once():  # requested before the block
        raise AssertionError("the block was entered")


def test_a_signal_does_not_end_a_block_of_another_thread():
    """A signal handler in the main thread does not end a block of another thread, where the run may be."""
    stop, inside, leave = Stop(), threading.Event(), threading.Event()

    def load() -> None:
        with stop.at_once():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=load)
    thread.start()
    inside.wait()
    stop.request_at_once(signal.SIGTERM)
    leave.set()
    thread.join()
    assert stop.signal == signal.SIGTERM


def test_a_stop_needs_the_number_of_a_signal():
    stop = Stop()
    with pytest.raises(ValueError, match="0 is not the number of a signal"):
        stop.request(0)
    assert not stop.requested
    stop.request()
    stop.request(signal.SIGINT)  # only the first request counts
    assert stop.signal == signal.SIGTERM
