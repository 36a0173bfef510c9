"""Training of many words with one frozen model: a lane for each word, and micro-batches with samples of several.

A word learns what it would learn alone: it has its own data, steps, schedule, seed, early stop, files and verdict, and
in every captions only its own rows. A lane that ends, whether finished or by an error of its own, makes room for the
next word.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from accelerate import Accelerator

from neonym.errors import UserError
from neonym.models.lexicon import joined
from neonym.models.model import Model
from neonym.runs.stop import Stop, StopRequested
from neonym.training.ending import finish, save_and_stop, save_last, stop_before_first_step
from neonym.training.lane import Lane, OpenedWord, begin_steps
from neonym.training.load import KeptModel, model_for
from neonym.training.loop import after_step
from neonym.training.micro_batches import MicroBatches, samples_that_fit
from neonym.training.session import Session, agree
from neonym.training.setup import objective_of
from neonym.training.step import train_step
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
        self.is_loaded = kept is not None and kept.is_filled
        self.at_once = plan.run.compute.micro_batch_size  # samples of several words; None: not measured yet

    def train(self) -> None:
        """Train every word to its end. Each lane has an outcome then.

        Raises UserError if the only word ends with an error, or if another process is lost.
        """
        self.open_next(self.most or 1)
        model = self.load() if self.opened else None
        if model is not None:
            self.train_with(model)
        self.stop_waiting()

    def train_with(self, model: Model) -> None:
        """Train the words with a model that is loaded, until all have ended or a stop was requested."""
        self.is_loaded = True
        batches = MicroBatches(model, self.objective, self.accelerator)
        while True:
            self.fill(model)
            if not self.runs:
                return
            if signal := agree(self.accelerator, self.stop.signal):
                self.stop_all(signal)
                return
            self.step(model, batches)

    def load(self) -> Model | None:
        """Return the model, or None if it is stopped while it is read. Raises UserError."""
        try:
            with self.stop.at_once():
                plans = [lane.plan for lane in self.lanes]
                return model_for(plans, self.accelerator, self.opened[0].lane.events, self.kept)
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
        """Begin to train waiting words until all lanes are taken, unless a stop was requested."""
        while not agree(self.accelerator, self.stop.signal):
            self.open_next(self.room())
            if not self.opened:
                return
            self.begin(self.opened.popleft(), model)

    def room(self) -> int:
        """Return how many words learn at a time: without a setting, as many as fill a micro-batch."""
        if self.most is not None or len(self.lanes) == 1 or not self.runs:
            return self.most or 1
        largest = max(max(run.plan.step_sizes) for _, run in self.runs)
        return max(1, self.samples_at_once() // largest)

    def samples_at_once(self) -> int:
        """Return how many samples go through the model together, measured with the first word that learns."""
        if self.at_once is None:
            _, run = self.runs[0]
            self.at_once = -agree(self.accelerator, -samples_that_fit(run, self.objective))
        return self.at_once

    def begin(self, word: OpenedWord, model: Model) -> None:
        """Begin to train a word; one that has no step left is finished at once."""
        lane = word.lane
        model.vae.to(self.accelerator.device)  # after other images were encoded it is on the CPU
        with self.contained(lane, word.first_step):
            run = word.begin(model, self.accelerator, self.stop)
            self.runs.append((lane, run))
            if any(record.image_rules.changes for _, other in self.runs for record in other.plan.concept.records):
                model.vae.to(self.accelerator.device)  # images that look different in every step are encoded in it
            with run.speaking():
                begin_steps(run)
                if run.stops_early or run.state.step >= run.milestones.total:
                    self.finish(lane, run, is_whole=True)

    def step(self, model: Model, batches: MicroBatches) -> None:
        """Take one step for every word that learns, and do what is due after it."""
        works = [(lane, run, work) for lane, run in [*self.runs] if (work := self.work_of(lane, run)) is not None]
        if not works:
            return
        runs, own = [run for _, run, _ in works], [work for _, _, work in works]
        at_once = own[0].at_once if len(runs) == 1 else self.samples_at_once()
        with model.text.using(joined([run.lexicon for run in runs])):
            concepts = [run.state.concept for run in runs]
            losses = train_step(model, concepts, own, batches.of(runs, own, at_once), self.objective, self.accelerator)
        for (lane, run, _), loss in zip(works, losses.unbind(), strict=True):
            with self.contained(lane), run.speaking():
                if ending := after_step(run, loss):
                    self.finish(lane, run, is_whole=ending == "end")

    def work_of(self, lane: Lane, run: Session) -> Work | None:
        """Return the work of a word in its next step; None if an image can no longer be read, which ends its lane."""
        with self.contained(lane):
            return run.loader.work(run.state.step)
        return None

    def finish(self, lane: Lane, run: Session, is_whole: bool) -> None:
        """Judge a word, write its files, and free its lane."""
        result = finish(run, is_whole)
        self.leave(lane)
        lane.end(result)

    def leave(self, lane: Lane) -> None:
        """Free a lane."""
        self.runs = [(other, run) for other, run in self.runs if other is not lane]

    def stop_all(self, signal: int) -> None:
        """Save the state of every word that learns, and end it."""
        for lane, _ in [*self.runs]:
            with self.contained(lane):
                raise StopRequested(signal)

    def stop_waiting(self) -> None:
        """End the words that have not begun because of a stop: they leave no trace."""
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
            yield
        except StopRequested as request:
            run = next((run for other, run in self.runs if other is lane), None)
            if run is None:
                lane.end(stop_before_first_step(step, request.signal, lane.events))
            else:
                result = save_and_stop(run, request.signal)
                self.leave(lane)
                lane.end(result)
        except UserError as error:
            if len(self.lanes) == 1 or self.accelerator.num_processes > 1:
                raise
            self.leave(lane)
            lane.end(error)

    def save_all(self) -> int:
        """Save the state of every word that learns, and return the step of the first."""
        for _, run in self.runs:
            save_last(run)
        return self.runs[0][1].state.step if self.runs else 0


def lost_process_error(lanes: Lanes, error: RuntimeError) -> UserError:
    """Save the states because another process of the run is lost, and return the error to raise."""
    step = lanes.save_all()
    reason = str(error).splitlines()[0]
    what = f"another process ended or did not answer in time ({reason}); step {step} is saved"
    return UserError(what, "training", "Run the same command again to continue")
