"""A stop is obeyed within a step, whatever a run is doing, and leaves nothing to do twice."""

import signal
import threading
from pathlib import Path

import pytest

from neonym import train
from neonym.cli.signals import stopping
from neonym.runs.events import Encoded, Event, Judging
from neonym.runs.stop import Stop, StopRequested
from support.runs import stop_at


class StopsIn:
    """Asks for a stop in a phase of the run, and remembers how far the phase was when it ended."""

    def __init__(self, kind: type[Encoded] | type[Judging], done: int):
        self.stop, self.kind, self.at, self.done = Stop(), kind, done, 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, (Encoded, Judging)) and isinstance(event, self.kind):
            self.done = event.done
            if event.done == self.at:
                self.stop.request(signal.SIGINT)


def file_of(run) -> bytes:
    return (Path(run.save.output_dir) / "mychar4.safetensors").read_bytes()


def test_a_stop_within_the_verdict_keeps_the_last_step(run_for):
    whole, run, report = run_for("whole"), run_for(), StopsIn(Judging, 2)
    verdict = train(whole).verdicts[0]
    stopped = train(run, [report], report.stop)
    assert (stopped.signal, stopped.steps, stopped.files) == (signal.SIGINT, 8, [])
    assert report.done == 2  # the very next prediction is not made
    assert not (Path(run.save.output_dir) / "mychar4.safetensors").exists()
    again = train(run)
    assert again.verdicts[0] == verdict
    assert file_of(run) == file_of(whole)


def test_a_stop_within_an_evaluation_loses_none(run_for):
    """The evaluation that is cut off is made by the next start: early stopping sees the same curve."""
    options = {"early_stop": True, "eval_every_n_steps": 2, "early_stop_window": 2, "early_stop_threshold": 0.9}
    whole, run = run_for("whole", **options), run_for(**options)
    expected = train(whole)
    stopped = train(run, **stop_at(2))
    assert (stopped.signal, stopped.steps) == (signal.SIGTERM, 2)
    again = train(run)
    assert (again.steps, again.verdicts) == (expected.steps, expected.verdicts)
    assert file_of(run) == file_of(whole)


def test_a_stop_while_images_are_encoded(run_for):
    report = StopsIn(Encoded, 3)
    assert train(run_for(), [report], report.stop).signal == signal.SIGINT
    assert report.done == 3  # no other image is encoded
    assert train(run_for()).steps == 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_block_that_has_nothing_to_save(number):
    stop = Stop()
    with stopping(stop), pytest.raises(StopRequested), stop.at_once():
        signal.raise_signal(number)
    assert stop.requested
    assert stop.signal == number
    stop.request_at_once(number)  # outside of such a block nothing is raised
    with pytest.raises(StopRequested), stop.at_once():  # asked for before the block
        raise AssertionError("the block was entered")


def test_a_block_of_another_thread_is_not_ended_in_this_one():
    """A signal handler runs in the main thread, wherever the run is."""
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
