"""What happens in a run, as typed facts that any listener may follow.

A listener is a function of one event, called in the thread of the run: `neonym.train(run, listeners=[print])`.
It gets facts, so it cannot change a run. docs/events.md is made from this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol

VERSION = 1  # of the events; it grows when a field changes its meaning or goes, not when one is added

Level = Literal["info", "warning", "result"]


@dataclass(frozen=True)
class Event:
    """A fact about a run. `kind` is its name in `events.jsonl`."""

    kind: ClassVar[str]

    def facts(self) -> dict[str, object]:
        """Return the fields as values that JSON can hold: a path becomes text, and losses are fetched."""
        return {field.name: as_plain(getattr(self, field.name)) for field in fields(self)}


class Listener(Protocol):
    """Anything that can be called with an event."""

    def __call__(self, event: Event, /) -> object: ...


@dataclass(frozen=True)
class Opened(Event):
    """The run folder is this run's alone, and nothing is loaded yet. A listener refuses the run with a `UserError` now."""

    kind: ClassVar[str] = "opened"
    folder: Annotated[Path, "the run folder"]
    words: Annotated[tuple[str, ...], "the words to learn, in the order of every list of this page"]
    version: Annotated[int, "the version of the events"] = VERSION


@dataclass(frozen=True)
class Encoded(Event):
    """Some of the images went through the VAE or were found in a cache."""

    kind: ClassVar[str] = "encoded"
    done: Annotated[int, "images until now"]
    total: Annotated[int, "all images"]


@dataclass(frozen=True)
class Started(Event):
    """The first step of this run is next; everything is loaded."""

    kind: ClassVar[str] = "started"
    first_step: Annotated[int, "steps done before, more than 0 if the run goes on from a state"]
    steps: Annotated[int, "steps at the end of the run"]
    steps_per_epoch: Annotated[int, "steps of an epoch"]
    samples_per_step: Annotated[float, "mean number of images of a step, over all words"]


@dataclass(frozen=True)
class Stepped(Event):
    """One more step is done."""

    kind: ClassVar[str] = "step"
    step: Annotated[int, "steps done"]
    losses: Annotated[Sequence[float], "training loss of each word, fetched from the device when it is first read"]
    rates: Annotated[tuple[float, ...], "learning rate of each word"]
    found_rates: Annotated[
        tuple[float, ...], "`d*lr` of each word where the optimizer finds its rate, else nothing"
    ] = ()


@dataclass(frozen=True)
class Evaluated(Event):
    """The words were evaluated on fixed images, noise and noise levels."""

    kind: ClassVar[str] = "evaluated"
    step: Annotated[int, "steps done"]
    loss: Annotated[float, "mean evaluation loss of all words"]
    losses: Annotated[tuple[float, ...], "evaluation loss of each word"]
    norms: Annotated[tuple[float, ...], "mean length of the vectors of each word"]
    distances: Annotated[tuple[float, ...], "mean distance of the vectors of each word from their start"]
    of_start: Annotated[bool, "whether the words were as they were before the first step"] = False


@dataclass(frozen=True)
class Sampled(Event):
    """Sample images were generated."""

    kind: ClassVar[str] = "sampled"
    step: Annotated[int, "steps done"]
    tag: Annotated[str, "the mark of the step or epoch in the names of the files"]
    files: Annotated[tuple[Path, ...], "the images, and the sheet last"]
    sheet: Annotated[Path, "all images on one sheet, beside those that the starting words give"]


@dataclass(frozen=True)
class Saved(Event):
    """A file or a state folder was saved, complete, before the end of the run."""

    kind: ClassVar[str] = "saved"
    step: Annotated[int, "steps done"]
    file: Annotated[Path, "an embedding file or a state folder"]
    in_run_folder: Annotated[bool, "whether it is kept in the run folder although no setting asks for it"] = False


@dataclass(frozen=True)
class Judging(Event):
    """Some of the predictions were made that the verdicts need."""

    kind: ClassVar[str] = "judging"
    done: Annotated[int, "predictions until now"]
    total: Annotated[int, "all predictions"]


@dataclass(frozen=True)
class Judged(Event):
    """The words were measured for the verdicts, on other samples than those of evaluations."""

    kind: ClassVar[str] = "judged"
    step: Annotated[int, "steps done"]
    losses: Annotated[tuple[float, ...], "loss of each word"]
    norms: Annotated[tuple[float, ...], "mean length of the vectors of each word"]
    distances: Annotated[tuple[float, ...], "mean distance of the vectors of each word from their start"]


@dataclass(frozen=True)
class Noted(Event):
    """Something to read."""

    kind: ClassVar[str] = "note"
    level: Annotated[Level, "how important it is; a `result` is shown whatever is left out"]
    text: Annotated[str, "what the terminal shows"]


@dataclass(frozen=True)
class Stopped(Event):
    """The run was asked to stop and did, with its state saved: the same settings go on from there."""

    kind: ClassVar[str] = "stopped"
    step: Annotated[int, "steps done"]
    signal: Annotated[int, "the signal that asked for it"]


@dataclass(frozen=True)
class Finished(Event):
    """The run is at its end, with all files written."""

    kind: ClassVar[str] = "finished"
    step: Annotated[int, "steps done"]
    files: Annotated[tuple[Path, ...], "the embedding file of each word, then a state folder if one was asked for"]
    verdicts: Annotated[tuple[Mapping[str, object], ...], "the verdict on each word, as in `verdict.json`"]


@dataclass(frozen=True)
class Failed(Event):
    """The run ends with an error."""

    kind: ClassVar[str] = "failed"
    error: Annotated[str, "what went wrong"]


def as_plain(value: object) -> object:
    """Return a value that JSON can hold."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): as_plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_plain(inner) for inner in value]
    return value
