"""Train a shard in this process: a process of the local machine or an actor of Ray calls this."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from neonym.config.run import RunConfig
from neonym.errors import EXIT_USER_ERROR, UserError
from neonym.fleet.outages import Outages, is_of_the_machine
from neonym.fleet.output import Output, Workspace, open_output
from neonym.fleet.pool import Assignment
from neonym.fleet.shared_folders import check_mark, check_start_folder
from neonym.fleet.words import ENDINGS, Outcome, Progress, Shard, Word
from neonym.io.atomic import alone_in

if TYPE_CHECKING:
    import neonym

OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)  # another machine may have space
REPORT_SECONDS = 0.5  # between two reports on a step
LOCKED_SECONDS = 60.0  # for the process that trained a word before to end: its machine may have noticed late


@dataclass
class Reports:
    """The news about the words of a shard since they were last taken, for the driver; safe for two threads."""

    send: Callable[[], object] | None = None  # called when there is something new, at most every half second
    progress: dict[str, Progress] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)
    sent: float = 0.0

    def step(self, progress: Progress) -> None:
        """Note how far a word is."""
        with self.lock:
            self.progress[progress.name] = progress
        self.send_if_due(REPORT_SECONDS)

    def end(self, outcome: Outcome) -> None:
        """Note how a word ended."""
        with self.lock:
            self.outcomes[outcome.name] = outcome
        self.send_if_due(0)

    def send_if_due(self, seconds: float) -> None:
        """Send what is new, unless that was done a moment ago."""
        if self.send is not None and time.monotonic() - self.sent >= seconds:
            self.sent = time.monotonic()
            self.send()

    def take(self) -> tuple[tuple[Progress, ...], tuple[Outcome, ...]]:
        """Return what is new, and forget it."""
        with self.lock:
            taken = tuple(self.progress.values()), tuple(self.outcomes.values())
            self.progress, self.outcomes = {}, {}
        return taken


@dataclass
class Following:
    """A listener that reports on the run of one word, and saves what it writes."""

    word: Word
    workspace: Workspace
    reports: Reports
    save_seconds: float
    saved: float = field(default_factory=time.monotonic)
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        self.progress = Progress(self.word.name)

    def __call__(self, event: neonym.Event) -> None:
        """Report on an event."""
        import neonym

        if isinstance(event, neonym.Started):
            known = (event.first_step, event.steps, event.first_step, event.samples_per_step)
            self.progress = Progress(self.word.name, *known)
            self.reports.step(self.progress)
        elif isinstance(event, neonym.Stepped):
            self.progress = replace(self.progress, step=event.step)
            self.reports.step(self.progress)
            if time.monotonic() - self.saved >= self.save_seconds:
                self.save()
        elif isinstance(event, neonym.Finished) and self.save():
            self.reports.end(self.finished(event))

    def save(self) -> bool:
        """Return whether what has changed is on the store; one that does not answer is asked again at the end."""
        self.saved = time.monotonic()
        with suppress(OSError):
            self.workspace.save()
            return True
        return False

    def finished(self, event: neonym.Finished) -> Outcome:
        """Return how a run ended that has reached its end."""
        verdict = dict(event.verdicts[0]) if event.verdicts else None
        outcome = finished_outcome(self.word, self.workspace, verdict, event.step, event.files)
        return replace(outcome, was_finished=not self.progress.steps)


def finished_outcome(
    word: Word, workspace: Workspace, verdict: dict[str, object] | None, step: int, files: Sequence[Path]
) -> Outcome:
    """Return the outcome of a run that has reached its end. A damaged or missing verdict counts as a failure."""
    ending = ENDINGS.get(str((verdict or {}).get("word")), "failed")
    error = "" if ending != "failed" else no_verdict(word, workspace.folder)
    inside = [f"{word.name}/{name}" for path in files if (name := below(path, workspace.folder))]
    return Outcome(
        word.name, ending, error, verdict, step, files=tuple(inside), sheet=last_sheet(word, workspace.folder)
    )


def no_verdict(word: Word, folder: Path) -> str:
    """Return the error about a finished run whose verdict cannot be read."""
    name = f"{word.run_folder}/verdict.json"
    state = "damaged" if (folder / name).exists() else "missing"
    fix = f"Remove the folder {word.name}/{word.run_folder} to learn it again."
    return f"{word.where}: the word is learned, but {word.name}/{name} in the output folder is {state}. {fix}"


def below(path: Path, folder: Path) -> str:
    """Return the name of a file below a folder, or an empty string."""
    try:
        return path.absolute().relative_to(folder.absolute()).as_posix()
    except ValueError:
        return ""


def last_sheet(word: Word, folder: Path) -> str:
    """Return the last sheet of sample images, below the output folder; an empty string if there is none."""
    found = ""
    with (
        suppress(OSError),
        (folder / word.run_folder / "events.jsonl").open(encoding="utf-8", errors="replace") as lines,
    ):
        for line in lines:
            if '"sampled"' in line:
                with suppress(ValueError, KeyError, TypeError):
                    sheet = Path(json.loads(line)["sheet"])
                    found = f"{word.name}/{sheet.parent.name}/{sheet.name}"
    return found


def work(given: Assignment, reports: Reports, stop: neonym.Stop, kept: neonym.KeptModel) -> list[Outcome]:
    """Return how each word of an assignment ended, whatever is raised: the other shards go on."""
    try:
        if given.start_folder:
            check_start_folder(given.start_folder)
        if given.mark:
            check_mark(given.place, given.mark)
        output = open_output(given.place, given.scratch)
    except (UserError, OSError) as error:  # such as a package that only this machine lacks
        return refused(given.shard, error, str(error))
    try:
        return train_shard(given.shard, output, reports, stop, given.lanes, given.save_seconds, kept)
    except Exception as error:  # a bug, or a library's own
        machine = str(error) if isinstance(error, OSError) else fault_of_machine(error)
        return refused(given.shard, error, machine)


def train_shard(
    shard: Shard,
    output: Output,
    reports: Reports,
    stop: neonym.Stop,
    lanes: int | None = None,
    save_seconds: float = 60.0,
    kept: neonym.KeptModel | None = None,
) -> list[Outcome]:
    """Train the words of a shard, each in its workspace, and return how each one ended. The model stays in `kept`."""
    outcomes: list[Outcome] = []
    opened: list[tuple[Word, Workspace]] = []
    runs: list[RunConfig] = []
    outages = Outages()
    with ExitStack() as workspaces:
        for word in shard.words:
            workspace = output.workspace(word)
            try:
                outages.bridge(workspace.fetch)
            except OSError as error:
                outcomes.append(store_failed(word, error, "its files cannot be copied from the object store"))
                continue
            try:
                wait_until_free(workspace.folder / word.run_folder)
                runs.append(word.run(workspace.folder))
                opened.append((word, workspace))
                workspaces.callback(workspace.close)
            except UserError as error:
                outcomes.append(Outcome(word.name, "failed", f"{word.where}: {error}"))
            except OSError as error:
                outcomes.append(Outcome(word.name, "failed", f"{word.where}: {error}", machine=str(error)))
        listeners = [Following(word, workspace, reports, save_seconds) for word, workspace in opened]
        results = train_together(runs, listeners, stop, lanes, kept) if runs else []
        for listener, result in zip(listeners, results, strict=True):
            outcomes.append(ended(listener, result, outages))
    return outcomes


def train_together(
    runs: Sequence[RunConfig],
    listeners: Sequence[Following],
    stop: neonym.Stop,
    lanes: int | None,
    kept: neonym.KeptModel | None,
) -> list[neonym.Result | neonym.NeonymError]:
    """Return the result of each run, or its error. If a library raises, each run is trained alone.

    A run that does not fit the memory, say, then spares the others; those that were finished are only recognised.
    """
    import neonym

    try:
        return [*neonym.train_words(runs, listeners=lambda i: [listeners[i]], stop=stop, lanes=lanes, kept=kept)]
    except Exception as error:  # libraries raise anything
        if len(runs) == 1:
            return [error if isinstance(error, neonym.NeonymError) else as_neonym_error(error)]
        return [
            result
            for run, own in zip(runs, listeners, strict=True)
            for result in train_together([run], [own], stop, lanes, kept)
        ]


def as_neonym_error(error: Exception) -> neonym.NeonymError:
    """Return an error of a library as one of Neonym's."""
    import neonym

    own = neonym.NeonymError(f"{type(error).__name__}: {error}")
    own.__cause__ = error
    return own


def ended(listener: Following, result: neonym.Result | neonym.NeonymError, outages: Outages) -> Outcome:
    """Return how a run ended, once everything that it wrote is saved."""
    import neonym

    outcome = outcome_of(listener, result)
    try:
        outages.bridge(listener.workspace.save)
    except OSError as error:
        return store_failed(listener.word, error, "its files cannot be copied to the object store")
    if isinstance(result, neonym.Result) and not result.signal:
        listener.reports.end(outcome)
    return outcome


def store_failed(word: Word, error: OSError, what: str) -> Outcome:
    """Return the outcome of a word whose files cannot be copied: the fault of this machine or of the store."""
    text = f"{word.where}: {what} ({error})."
    if is_of_the_machine(error):
        return Outcome(word.name, "failed", text, machine=str(error))
    return Outcome(word.name, "failed", text, store=str(error))


def outcome_of(listener: Following, result: neonym.Result | neonym.NeonymError) -> Outcome:
    """Return how a run ended, by what `train_words` returned for it."""
    import neonym

    word, workspace = listener.word, listener.workspace
    if isinstance(result, neonym.NeonymError):
        text = str(result) if result.exit_code == EXIT_USER_ERROR else f"the run ended with an error: {result}"
        return Outcome(word.name, "failed", text, step=listener.progress.step, machine=fault_of_machine(result))
    if result.signal or not result.files:  # or the time of --max_train_time was up before its first step
        return Outcome(word.name, "stopped", step=result.steps)
    verdict = result.verdicts[0].as_dict() if result.verdicts else None
    outcome = finished_outcome(word, workspace, verdict, result.steps, result.files)
    return replace(outcome, was_finished=result.was_finished)


def fault_of_machine(error: BaseException) -> str:
    """Return the error of the system behind an error, if it is one that another machine may not have."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in OF_THE_MACHINE:
            return str(cause)
    return ""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def wait_until_free(run_folder: Path, seconds: float = LOCKED_SECONDS) -> None:
    """Wait while another process trains in a run folder: one whose driver died ends a little later."""
    ends = time.monotonic() + seconds
    while run_folder.is_dir() and time.monotonic() < ends:
        with alone_in(run_folder) as alone:
            if alone:
                return
        time.sleep(0.2)


def refused(shard: Shard, error: Exception, machine: str = "") -> list[Outcome]:
    """Return the outcomes of a shard that could not be trained at all; `machine` is what is wrong with the machine."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return [Outcome(word.name, "failed", text, machine=machine) for word in shard.words]
