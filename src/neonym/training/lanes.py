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

import torch
from accelerate import Accelerator
from torch import Tensor

from neonym.errors import UserError
from neonym.models.lexicon import joined
from neonym.models.model import Model
from neonym.runs.stop import Stop, StopRequested
from neonym.training.ending import finish, save_and_stop, save_last, stop_before_first_step
from neonym.training.graphs import graphs_for
from neonym.training.lane import Lane, OpenedWord, begin_steps
from neonym.training.load import KeptModel, kind_of_model, load_frozen_model
from neonym.training.loop import after_step
from neonym.training.micro_batches import MicroBatches
from neonym.training.session import Session, agree, deadline_of
from neonym.training.setup import objective_of
from neonym.training.step import backward, train_step
from neonym.types import Work


class Lanes:
    """The words that learn together, `most` at a time; None: as many as fill a micro-batch."""

    def __init__(
        self, lanes: Sequence[Lane], accelerator: Accelerator, stop: Stop, most: int | None, kept: KeptModel | None
    ):
        self.lanes, self.accelerator, self.stop, self.most, self.kept = lanes, accelerator, stop, most, kept
        self.waiting = deque(lanes)
        self.opened: deque[OpenedWord] = deque()
        self.runs: list[tuple[Lane, Session]] = []  # the words that learn now
        plan = lanes[0].plan
        self.objective = objective_of(plan.run, plan.source)
        self.is_loaded = kept is not None and kept.holds(kind_of_model([own.plan for own in lanes], accelerator))
        self.started = 0.0  # when the model was loaded, in seconds of the monotonic clock
        self.at_once = plan.run.compute.micro_batch_size  # samples of several words; None: as memory carries
        self.lanes_by_memory: int | None = None  # None: not measured yet
        self.graphs = graphs_for([own.plan for own in lanes], accelerator.device, lanes[0].events.note)

    def train(self) -> None:
        """Train every word to its end. Each lane has an outcome then.

        Raises UserError if the only word ends with an error, or if another process is lost.
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
        self.batches = MicroBatches(model, self.objective, self.accelerator, self.at_once)
        while True:
            self.fill(model)
            if not self.runs:
                return
            if signal := agree(self.accelerator, self.stop.signal):
                self.stop_all(signal)
                return
            self.step(model)

    def load(self) -> Model | None:
        """Return the model, or None if it is stopped while it is read. Raises UserError."""
        first = self.opened[0]  # whose plan knows the files, which may just have been fetched
        plans = [replace(lane.plan, source=first.plan.source) for lane in self.lanes]
        kept = KeptModel() if self.kept is None else self.kept
        try:
            with self.stop.at_once():
                kind = kind_of_model(plans, self.accelerator)
                return kept.get(kind, lambda: load_frozen_model(plans, self.accelerator, first.lane.events))
        except StopRequested:
            return None

    def open_next(self, count: int) -> None:
        """Open words until `count` are open or learning, or none is waiting."""
        while self.waiting and len(self.opened) + len(self.runs) < count:
            lane = self.waiting.popleft()
            with self.contained(lane):
                if opened := lane.open(self.accelerator, self.is_loaded):
                    self.opened.append(opened)

    def fill(self, model: Model) -> None:
        """Begin to train waiting words until all lanes are taken, unless a stop was requested or the time is up."""
        while not agree(self.accelerator, self.stop.signal or time.monotonic() > self.deadline):
            self.open_next(self.room())
            if not self.opened:
                return
            self.begin(self.opened.popleft(), model)

    @property
    def deadline(self) -> float:
        """The time of the monotonic clock, in seconds, after which no further word begins."""
        return deadline_of(self.lanes[0].plan.run, self.started)

    def room(self) -> int:
        """Return how many words learn at a time: without a setting, as many as fill a micro-batch."""
        if self.most is not None or len(self.lanes) == 1 or not self.runs:
            return self.most or 1
        if self.lanes_by_memory is None:
            lane, run = self.runs[0]
            fitting = 1
            with self.contained(lane):
                fitting = self.batches.samples_that_fit(run)
            fitting = -agree(self.accelerator, -fitting)
            self.lanes_by_memory = max(1, fitting // max(run.plan.step_sizes))
        return self.lanes_by_memory

    def begin(self, word: OpenedWord, model: Model) -> None:
        """Begin to train a word; one that has no step left is finished at once."""
        lane, deadline = word.lane, deadline_of(word.plan.run, self.started)
        is_interruptible = self.accelerator.num_processes == 1 or not self.runs  # in one process or in all
        self.release_graphs()
        model.vae.to(self.accelerator.device)  # after other images were encoded it is on the CPU
        with self.contained(lane, word.first_step):
            run = word.begin(model, self.accelerator, self.stop, deadline, is_interruptible)
            run.graphs = self.graphs
            self.runs.append((lane, run))
        if any(run.plan.encodes_in_each_step for _, run in self.runs):
            model.vae.to(self.accelerator.device)
        for run in (run for other, run in self.runs if other is lane):
            with self.contained(lane), run.speaking():
                begin_steps(run)
                if run.stops_early or run.state.step >= run.milestones.total:
                    self.finish(lane, run, is_whole=True)

    def step(self, model: Model) -> None:
        """Take one step for every word that learns, and do what is due after it."""
        works = [(lane, run, work) for lane, run in [*self.runs] if (work := self.work_of(lane, run)) is not None]
        if not works:
            return
        runs, own = [run for _, run, _ in works], [work for _, _, work in works]
        with model.text.using(joined([run.lexicon for run in runs])):
            losses = self.losses_of_step(model, runs, own)
        for run in runs:  # the rows of all words have moved: a state that is saved from here on says so
            run.state.step += 1
        for (lane, run, _), loss in zip(works, losses.unbind(), strict=True):
            with self.contained(lane), run.speaking():
                if ending := after_step(run, loss):
                    self.finish(lane, run, is_whole=ending == "end")

    def losses_of_step(self, model: Model, runs: Sequence[Session], works: Sequence[Work]) -> Tensor:
        """Take the step, and return the losses [N]. If the memory of a GPU does not suffice, use smaller micro-batches."""
        concepts = [run.state.concept for run in runs]
        while True:
            try:
                batches = self.batches.of(runs, works)
                return train_step(
                    model, concepts, works, batches, self.objective, self.accelerator, self.graphs or backward
                )
            except torch.OutOfMemoryError:  # before any row has moved
                for concept in concepts:
                    concept.clear_gradients()
                if self.graphs and self.graphs.make_room():
                    continue
                if len(runs) == 1 or not self.batches.shrink():
                    raise
                torch.cuda.empty_cache()

    def work_of(self, lane: Lane, run: Session) -> Work | None:
        """Return the work of a word in its next step; None if an image can no longer be read, which ends its lane."""
        with self.contained(lane):
            return run.with_room(lambda: run.loader.work(run.state.step))
        return None

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

        Raises the UserError of the only word of a run, and of any word if there are several processes.
        """
        try:
            try:
                yield
            except StopRequested as request:  # whose state may not be saved, which is an error of the word
                run = next((run for other, run in self.runs if other is lane), None)
                if run is None:
                    result = stop_before_first_step(step, request.signal, lane.events)
                else:
                    result = save_and_stop(run, request.signal)
                self.leave(lane)
                lane.end(result)
        except UserError as error:
            self.leave(lane)
            if len(self.lanes) == 1 or self.accelerator.num_processes > 1:
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
