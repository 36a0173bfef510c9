"""Logging to TensorBoard and Weights & Biases through accelerate: sd-scripts' scalars, and figures of each word."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, filter_trackers
from PIL import Image

from neonym.config.resolve import read_table
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from neonym.config.without_effect import tracker_kinds
from neonym.errors import RefuseRun, UserError
from neonym.runs.dispatcher import Dispatcher
from neonym.runs.events import Evaluated, Event, Failed, Finished, Judged, Opened, Sampled, Started, Stepped, Stopped
from neonym.runs.outputs import PROJECT, tracker_folder

FETCH_STEPS = 50  # the losses of so many steps are fetched together
# settings with one of these in their names are not logged
PRIVATE = ("dir", "path", "key", "token", "config", "weights", "resume", "prompts")


class Trackers:
    """A listener that logs scalars and sheets of sample images.

    The scalars are `loss` and `lr` of each step, `lr/d*lr` if the optimizer finds its own rate, `loss/epoch`, and
    `eval`, `norm` and `distance` of each word. If a tracker fails during training, a warning is emitted, logging ends,
    and training continues.
    """

    def __init__(self, run: RunConfig, events: Dispatcher, is_alone: bool = True):
        """Start trackers of their own for a word that is not alone; otherwise, wandb would log all words as one run."""
        self.run, self.events, self.is_alone = run, events, is_alone
        self.trackers: list[GeneralTracker] = []
        self.folder: Path | None = None  # TensorBoard's
        self.words: tuple[str, ...] = ()
        self.steps_per_epoch, self.evaluated = 1, -1
        self.steps: list[Stepped] = []  # steps that are not logged yet
        self.epoch: list[float] = []  # mean loss of each step of the current epoch

    def __call__(self, event: Event) -> None:
        """Log an event. Raises RefuseRun if a tracker cannot start."""
        match event:
            case Opened(words=words):
                self.words = words
                self.start()
            case Started(steps_per_epoch=steps):
                self.steps_per_epoch = steps
            case Stepped():
                self.steps += [event] if self.trackers else []
                if len(self.steps) >= FETCH_STEPS:
                    self.log_steps()
            case Evaluated(of_start=False):
                self.evaluated = event.step
                self.log_words(event)
            case Judged() if event.step != self.evaluated:
                self.log_words(event)
            case Sampled(step=step, sheet=sheet):
                self.log_sheet(step, sheet)
            case Stopped() | Finished() | Failed():
                self.end()

    def start(self) -> None:
        """Start every tracker. Raises RefuseRun."""
        log = self.run.log
        if log.wandb_api_key:
            os.environ["WANDB_API_KEY"] = log.wandb_api_key
        name, folder = log.log_tracker_name or PROJECT, tracker_folder(log)
        try:
            arguments = tracker_arguments(self.run)
            if not self.is_alone:
                arguments.setdefault("wandb", {})["reinit"] = "create_new"
            for kind in filter_trackers([*tracker_kinds(log)], folder):
                make = LOGGER_TYPE_TO_CLASS[str(kind)]
                place = [str(folder)] if make.requires_logging_directory else []
                tracker = make(name, *place, **arguments.get(str(kind), {}))
                tracker.start()
                self.trackers.append(tracker)
                if log.log_config:
                    store_settings(tracker, logged_settings(self.run))
        except UserError as error:  # the file of --log_tracker_config has changed since the checks
            raise RefuseRun(error.problem.what, error.problem.where, error.problem.fix) from error
        except Exception as error:  # each tracker has errors of its own
            fix = "Check its arguments, its API key and the network"
            raise RefuseRun(f"the tracker cannot start ({error})", "--log_with", fix) from error
        if folder is not None and "tensorboard" in tracker_kinds(log):
            self.folder = folder / name

    def log_steps(self) -> None:
        """Log the steps that are not logged yet."""
        steps, self.steps = self.steps, []
        for event in steps:
            values = self.by_word("loss", event.losses) | self.by_word("lr", event.rates)
            values |= self.by_word("lr/d*lr", event.found_rates)
            self.epoch.append(sum(event.losses) / len(event.losses))
            if event.step % self.steps_per_epoch == 0:
                values["loss/epoch"] = sum(self.epoch) / len(self.epoch)
                self.epoch = []
            self.log(values, event.step)

    def by_word(self, what: str, values: Sequence[float]) -> dict[str, float]:
        """Return the values under the names that trackers show: with the word if there are several words."""
        names = [what] if len(self.words) == 1 else [f"{what}/{word}" for word in self.words]
        return dict(zip(names, values, strict=False))

    def log_words(self, event: Evaluated | Judged) -> None:
        """Log the loss of each word, and the length of its vectors and their distance from the initial ones."""
        self.log_steps()  # trackers take steps in order
        values: dict[str, float] = {}
        for word, *figures in zip(self.words, event.losses, event.norms, event.distances, strict=True):
            values |= zip((f"eval/{word}", f"norm/{word}", f"distance/{word}"), figures, strict=True)
        self.log(values, event.step)

    def log(self, values: dict[str, float], step: int) -> None:
        """Log the scalars of a step."""
        self.send(lambda tracker: tracker.log(values, step=step))

    def log_sheet(self, step: int, sheet: Path) -> None:
        """Log a sheet of sample images."""
        self.log_steps()
        if not self.trackers:
            return
        with Image.open(sheet) as image:
            pixels = np.asarray(image.convert("RGB"))[None]  # [1,H,W,3]

        def log_images(tracker: Any) -> None:  # each tracker has arguments of its own
            options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"samples": pixels}, step=step, **options)

        self.send(log_images)

    def send(self, write: Callable[[GeneralTracker], object]) -> None:
        """Call `write` with every tracker. Recreate the log folder if it was deleted."""
        try:
            if self.trackers and self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
            for tracker in self.trackers:
                write(tracker)
        except Exception as error:  # each tracker has errors of its own
            self.trackers = []
            self.events.warn(f"logging ends ({error}). Training continues.")

    def end(self) -> None:
        """Log the remaining steps, and close the trackers."""
        self.log_steps()
        self.send(lambda tracker: tracker.finish())
        self.trackers = []


def store_settings(tracker: Any, values: dict[str, str]) -> None:
    """Store the settings of a run in its tracker. wandb has a run for each word, of which accelerate knows one only."""
    if tracker.name == "wandb":
        tracker.tracker.config.update(values, allow_val_change=True)
    else:
        tracker.store_init_configuration(values)


def logged_settings(run: RunConfig) -> dict[str, str]:
    """Return what `--log_config` logs: every setting that has a value, without paths and keys."""
    values = {name: getattr(getattr(run, section), name) for section, name, _ in fields_of(RunConfig)}
    return {n: str(v) for n, v in values.items() if v is not None and not any(part in n for part in PRIVATE)}


def tracker_arguments(run: RunConfig) -> dict[str, Any]:
    """Return the arguments of each tracker by its name. Raises ConfigError if their file cannot be read."""
    file = run.log.log_tracker_config
    arguments = {} if file is None else read_table(Path(file))
    if run.log.wandb_run_name:
        arguments.setdefault("wandb", {}).setdefault("name", run.log.wandb_run_name)
    return arguments
