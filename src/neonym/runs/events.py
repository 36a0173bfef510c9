"""The events of a run: typed facts that any listener can follow.

A listener is a function of one event, called in the thread of the run: `neonym.train(run, listeners=[print])`.
It receives facts, so it cannot change a run. docs/events.md is generated from this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol

VERSION = 1  # of the events; it grows when a field changes its meaning or is removed, not when one is added

Level = Literal["info", "warning", "result"]


@dataclass(frozen=True)
class Event:
    """A fact about the training of a word. `kind` is its name in `events.jsonl`."""

    kind: ClassVar[str]
    word: Annotated[str, "the word; a run with several emits the events of each"] = field(
        default="", kw_only=True, compare=False
    )

    def facts(self) -> dict[str, object]:
        """Return the fields as values that JSON can represent: paths become text, and losses are fetched."""
        return {own.name: as_plain(getattr(self, own.name)) for own in fields(self)}


class Listener(Protocol):
    """A callable that takes an event."""

    def __call__(self, event: Event, /) -> object: ...


@dataclass(frozen=True)
class Opened(Event):
    """The run folder is locked, and nothing is loaded yet. A listener can refuse the run by raising `RefuseRun`."""

    kind: ClassVar[str] = "opened"
    folder: Annotated[Path, "the run folder"]
    words: Annotated[tuple[str, ...], "the word to learn, alone in a list as in every list of numbers on this page"]
    version: Annotated[int, "the version of the events"] = VERSION


@dataclass(frozen=True)
class Encoded(Event):
    """Some of the images were encoded by the VAE or found in a cache."""

    kind: ClassVar[str] = "encoded"
    done: Annotated[int, "images so far"]
    total: Annotated[int, "all images, without those that another word has had encoded in this process or on Ray"]


@dataclass(frozen=True)
class Started(Event):
    """Everything is loaded, and the first step of this run is next."""

    kind: ClassVar[str] = "started"
    first_step: Annotated[int, "steps done earlier: more than 0 if the run continues from a state"]
    steps: Annotated[int, "steps at the end of the run"]
    steps_per_epoch: Annotated[int, "steps per epoch"]
    samples_per_step: Annotated[float, "mean number of images per step"]


@dataclass(frozen=True)
class Stepped(Event):
    """A step is done."""

    kind: ClassVar[str] = "step"
    step: Annotated[int, "steps done"]
    losses: Annotated[Sequence[float], "training loss, fetched from the device when it is first read"]
    rates: Annotated[tuple[float, ...], "learning rate"]
    found_rates: Annotated[tuple[float, ...], "`d*lr`, if the optimizer finds its own rate; otherwise empty"] = ()


@dataclass(frozen=True)
class Evaluated(Event):
    """The word was evaluated on fixed images, noise and noise levels."""

    kind: ClassVar[str] = "evaluated"
    step: Annotated[int, "steps done"]
    loss: Annotated[float, "mean evaluation loss"]
    losses: Annotated[tuple[float, ...], "the same"]
    norms: Annotated[tuple[float, ...], "mean length of the vectors"]
    distances: Annotated[tuple[float, ...], "mean distance of the vectors from their initial values"]
    of_start: Annotated[bool, "whether the word still had its initial vectors"] = False


@dataclass(frozen=True)
class Sampled(Event):
    """Sample images were generated."""

    kind: ClassVar[str] = "sampled"
    step: Annotated[int, "steps done"]
    tag: Annotated[str, "the tag of the step or epoch in the file names"]
    files: Annotated[tuple[Path, ...], "the images, then the grid"]
    sheet: Annotated[Path, "a grid that compares the images with those without the word and with the initial vectors"]


@dataclass(frozen=True)
class Saved(Event):
    """An embedding file or a state folder was saved before the end of the run."""

    kind: ClassVar[str] = "saved"
    step: Annotated[int, "steps done"]
    file: Annotated[Path, "an embedding file or a state folder"]
    in_run_folder: Annotated[bool, "whether it was saved in the run folder, without a setting that requests it"] = False


@dataclass(frozen=True)
class Judging(Event):
    """Some of the predictions for the verdict were made."""

    kind: ClassVar[str] = "judging"
    done: Annotated[int, "predictions so far"]
    total: Annotated[int, "all predictions"]


@dataclass(frozen=True)
class Judged(Event):
    """The word was measured for the verdict, on samples that evaluations do not use."""

    kind: ClassVar[str] = "judged"
    step: Annotated[int, "steps done"]
    losses: Annotated[tuple[float, ...], "loss"]
    norms: Annotated[tuple[float, ...], "mean length of the vectors"]
    distances: Annotated[tuple[float, ...], "mean distance of the vectors from their initial values"]


@dataclass(frozen=True)
class Noted(Event):
    """A note, a warning or a result was emitted for the user to read."""

    kind: ClassVar[str] = "note"
    level: Annotated[Level, "how important it is; a `result` is always shown"]
    text: Annotated[str, "the text that the terminal shows"]


@dataclass(frozen=True)
class Stopped(Event):
    """The run stopped on request, with its state saved: a run with the same settings continues from there."""

    kind: ClassVar[str] = "stopped"
    step: Annotated[int, "steps done"]
    signal: Annotated[int, "the signal that requested it"]


@dataclass(frozen=True)
class Finished(Event):
    """The run reached its end, now or in an earlier call, and all files are written."""

    kind: ClassVar[str] = "finished"
    step: Annotated[int, "steps done"]
    files: Annotated[
        tuple[Path, ...],
        "the embedding file, files with one encoder alone, and a state folder if requested",
    ]
    verdicts: Annotated[tuple[Mapping[str, object], ...], "the verdict, as in `verdict.json`"]


@dataclass(frozen=True)
class Failed(Event):
    """The run ended with an error, before or after it was opened."""

    kind: ClassVar[str] = "failed"
    error: Annotated[str, "what went wrong"]


def as_plain(value: object) -> object:
    """Return the value in a form that JSON can represent."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): as_plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_plain(inner) for inner in value]
    return value
