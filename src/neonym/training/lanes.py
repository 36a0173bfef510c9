"""Training of many words with one frozen model: a lane for each word, and micro-batches with samples of several.

A word learns what it would learn alone: it has its own data, steps, schedule, seed, early stop, files and verdict, and
in every captions only its own rows. A lane that ends, whether finished or by an error of its own, makes room for the
next word.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from accelerate import Accelerator

from neonym.errors import UserError
from neonym.models.model import Model
from neonym.runs.stop import Stop, StopRequested
from neonym.training.ending import finish, save_and_stop, save_last, stop_before_first_step
from neonym.training.graphs import graphs_for
from neonym.training.joint_steps import JointSteps
from neonym.training.lane import Lane, OpenedWord, begin_steps
from neonym.training.load import KeptModel, kind_of_model, load_frozen_model
from neonym.training.loop import after_step
from neonym.training.processes import agree, largest, together
from neonym.training.session import Session, deadline_of
from neonym.training.setup import objective_of


class Lanes:
    """The words that learn together, `most` at a time; None: as many as fill a micro-batch."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        accelerator: Accelerator,
        stop: Stop,
        most: int | None,
        kept: KeptModel,
        is_only: bool,
    ):
        """Take the words of a run. The error of its only word is raised."""
        self.lanes, self.accelerator, self.stop, self.most = lanes, accelerator, stop, most
        self.kept, self.is_only = kept, is_only
        self.waiting = deque(lanes)
        self.opened: deque[OpenedWord] = deque()
        self.runs: list[tuple[Lane, Session]] = []  # the words that learn now
        self.is_loaded = self.kept.holds(kind_of_model([own.plan for own in lanes], accelerator))
        self.started = 0.0  # when the model was loaded, in seconds of the monotonic clock
        self.lanes_by_memory: int | None = None  # None: not measured yet
        self.graphs = graphs_for([own.plan for own in lanes], accelerator.device, lanes[0].events.note)

    def train(self) -> None:
        """Train every word to its end. Each lane has an outcome then.

        Raises UserError if the only word ends with an error, or if the model cannot be loaded.
        """
        self.open_next(self.most or 1)
        model = self.load() if self.opened else None
        if model is not None:
            try:
                self.train_with(model)
            finally:
                self.release_graphs()
        self.stop_waiting()

    def train_with(self, model: Model) -> None:
        """Train the words with a model that is loaded, until all have ended or a stop was requested."""
        self.is_loaded, self.started = True, time.monotonic()
        plan = self.lanes[0].plan
        most = plan.run.compute.micro_batch_size
        steps = JointSteps(model, objective_of(plan.run, plan.source), self.accelerator, most, self.graphs)
        while True:
            self.fill(steps)
            if not self.runs:
                return
            if signal := agree(self.accelerator, self.stop.signal):
                self.stop_all(signal)
                return
            self.step(steps)

    def load(self) -> Model | None:
        """Return the model, or None if it is stopped while it is read. Raises UserError."""
        first = self.opened[0]  # whose plan knows the files, which may just have been fetched
        plans = [replace(lane.plan, source=first.plan.source) for lane in self.lanes]
        try:
            with together(self.accelerator), self.stop.at_once():
                kind = kind_of_model(plans, self.accelerator)
                return self.kept.get(kind, lambda: load_frozen_model(plans, self.accelerator, first.lane.events))
        except StopRequested as request:
            self.stop.request(request.signal)
            return None

    def open_next(self, count: int) -> None:
        """Open words until `count` are open or learning, or none is waiting."""
        while self.waiting and len(self.opened) + len(self.runs) < count:
            lane = self.waiting.popleft()
            with self.contained(lane):
                if opened := lane.open(self.accelerator, self.is_loaded):
                    self.opened.append(opened)

    def fill(self, steps: JointSteps) -> None:
        """Begin to train waiting words until all lanes are taken, unless a stop was requested or the time is up."""
        while not self.is_closed():
            self.open_next(self.room(steps))
            if not self.opened:
                return
            self.begin(self.opened.popleft(), steps.model)

    def is_closed(self) -> bool:
        """Return whether no further word begins, because of a stop in one of the processes, or because the time is up."""
        is_late = time.monotonic() > deadline_of(self.lanes[0].plan.run, self.started)
        signal, is_late = largest(self.accelerator, [self.stop.signal, is_late])
        if signal:
            self.stop.request(signal)  # it may have reached another process only
        return bool(signal or is_late)

    def room(self, steps: JointSteps) -> int:
        """Return how many words learn at a time: without a setting, as many as fill a micro-batch."""
        if self.most is not None or len(self.lanes) == 1 or not self.runs:
            return self.most or 1
        if self.lanes_by_memory is None:
            lane, run = self.runs[0]
            fitting = 1
            with self.contained(lane), run.together():
                fitting = steps.words_that_fit(run)
            self.lanes_by_memory = -agree(self.accelerator, -fitting)
        return self.lanes_by_memory

    def begin(self, word: OpenedWord, model: Model) -> None:
        """Begin to train a word; one that has no step left is finished at once."""
        lane, deadline = word.lane, deadline_of(word.plan.run, self.started)
        self.release_graphs()
        model.vae.to(self.accelerator.device)  # after other images were encoded it is on the CPU
        with self.contained(lane, word.first_step):
            with together(self.accelerator):
                run = word.begin(model, self.kept.moments, self.accelerator, self.stop, deadline)
                run.graphs = self.graphs
            self.runs.append((lane, run))
        if any(run.plan.encodes_in_each_step for _, run in self.runs):
            model.vae.to(self.accelerator.device)
        for run in (run for other, run in self.runs if other is lane):
            with self.contained(lane), run.speaking():
                begin_steps(run)
                if run.stops_early or run.state.step >= run.milestones.total:
                    self.finish(lane, run, is_whole=True)

    def step(self, steps: JointSteps) -> None:
        """Take one step for every word that learns, and do what is due after it."""
        taking = []
        for (lane, run), work in zip([*self.runs], steps.works([run for _, run in self.runs]), strict=True):
            with self.contained(lane):
                if isinstance(work, BaseException):
                    raise work
                taking.append((lane, run, work))
        if not taking:
            return
        losses = steps.take([run for _, run, _ in taking], [work for _, _, work in taking])
        for (lane, run, _), loss in zip(taking, losses.unbind(), strict=True):
            with self.contained(lane), run.speaking():
                if ending := after_step(run, loss):
                    self.finish(lane, run, is_whole=ending == "end")

    def finish(self, lane: Lane, run: Session, is_whole: bool) -> None:
        """Judge a word, write its files, and free its lane."""
        self.release_graphs()
        result = finish(run, is_whole)
        self.leave(lane)
        lane.end(result)

    def release_graphs(self) -> None:
        """Free the memory of the graphs of steps, for what comes between two steps."""
        if self.graphs is not None:
            self.graphs.release()

    def leave(self, lane: Lane) -> None:
        """Free a lane."""
        self.runs = [(other, run) for other, run in self.runs if other is not lane]

    def stop_all(self, signal: int) -> None:
        """Save the state of every word that learns, and end it."""
        for lane, _ in [*self.runs]:
            with self.contained(lane):
                raise StopRequested(signal)

    def stop_waiting(self) -> None:
        """End the words that have not begun because of a stop, or because the time is up: they leave no trace."""
        signal = self.stop.signal
        for word in self.opened:
            word.lane.end(stop_before_first_step(word.first_step, signal, word.lane.events))
        for lane in self.waiting:
            lane.end(stop_before_first_step(0, signal, lane.events))
        self.opened.clear()
        self.waiting.clear()

    @contextmanager
    def contained(self, lane: Lane, step: int = 0) -> Iterator[None]:
        """End a lane by what ends the block: a stop, or an error of its own, with which the others go on.

        Every process leaves the block in the same way: an error that one of them alone may have is raised by
        `processes.together`. Raises the UserError of the only word of a run.
        """
        try:
            try:
                yield
            except StopRequested as request:  # whose state may not be saved, which is an error of the word
                self.stop.request(request.signal)
                run = next((run for other, run in self.runs if other is lane), None)
                if run is None:
                    result = stop_before_first_step(step, request.signal, lane.events)
                else:
                    result = save_and_stop(run, request.signal)
                self.leave(lane)
                lane.end(result)
        except UserError as error:
            self.leave(lane)
            if self.is_only:
                raise
            lane.end(error)

    def save_all(self) -> list[int]:
        """Save the state of every word that learns, and return their steps; a word that cannot be saved is left out."""
        steps = []
        for _, run in self.runs:
            with suppress(UserError):
                save_last(run)
                steps.append(run.state.step)
        return steps


def lost_process_error(lanes: Lanes, error: RuntimeError) -> UserError:
    """Save the states because another process of the run is lost, and return the error to raise."""
    steps = " and ".join(f"step {step}" for step in dict.fromkeys(lanes.save_all()))
    reason = str(error).splitlines()[0]
    what = f"another process ended or did not answer in time ({reason}); {steps or 'nothing'} is saved"
    return UserError(what, "training", "Run the same command again to continue")
