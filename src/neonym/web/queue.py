"""The queue of runs: files in the home folder, so that it survives the page and the machine.

Each entry is a folder with the settings as they were when it was queued, its state, and the output of its process.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import wraps
from pathlib import Path
from threading import RLock
from typing import Any, Literal, TypeVar, get_args
from uuid import uuid4

from neonym import RunConfig, UserError
from neonym.config.command_line import write_config
from neonym.config.sources import read_dataset
from neonym.io.atomic import atomic_write
from neonym.io.devices import devices as devices_of_machine
from neonym.web import processes
from neonym.web.bin import to_bin
from neonym.web.disk import reporting_disk_errors
from neonym.web.draft import Draft
from neonym.web.home import Home
from neonym.web.library import size_of
from neonym.web.masks import with_masks
from neonym.web.processes import Process
from neonym.web.run_log import RunLog
from neonym.web.same_name import NameTaken, differences, files_of, has_results, in_short, same_length, settings_in

Status = Literal["waiting", "running", "stopping", "stopped", "interrupted", "finished", "failed"]
ENTRY, SETTINGS, OUTPUT, PROMPTS = "entry.json", "settings.toml", "output.txt", "prompts.txt"
EVENTS = "events.jsonl"  # in a run folder, and a copy in the folder of an entry that has ended
ACTIVE = ("running", "stopping")
OPEN = ("waiting", *ACTIVE)
NAME_TAKEN = "Restore its settings, give the word another name, or let it replace the earlier one"
LATER = 1e-3  # seconds between two entries, whose order would otherwise be open
LAST_LINES = 12  # of the output of a run that failed
NOT_LEARNED = 3  # the exit code of a run that ended with a word that was not learned


@dataclass(frozen=True)
class Entry:
    """A frozen record of one run in the queue: what it is, and how far it is."""

    id: str
    token: str
    run_folder: str
    status: Status = "waiting"
    order: float = 0.0
    device: str = ""
    pid: int = 0
    identity: str = ""  # of the process, see `processes.identity_of`
    queued: float = 0.0  # seconds since 1970
    asked: float = 0.0  # when the run was asked to stop, seconds since 1970
    begin: int = 0  # bytes that its event file had when it was started: the events of an earlier run of its name
    others: tuple[str, ...] = ()  # its words but the first

    @property
    def process(self) -> Process:
        """The process of the run, which may have ended."""
        return Process(self.pid, self.identity)


def names_of(run: RunConfig) -> list[str]:
    """Return the names of the words of a run, of which each has a run folder; the page follows that of the first one."""
    config = read_dataset(run).config
    words = [concept.token_string for concept in config.concepts] if config else [run.concept.token_string or ""]
    return words if len(words) > 1 else [run.save.output_name or words[0]]


Method = TypeVar("Method", bound=Callable[..., Any])


def alone(method: Method) -> Method:
    """Return a method of a queue that no other thread enters at the same time."""

    @wraps(method)
    def entered(self: Queue, *arguments: Any) -> Any:
        with self.lock:
            return method(self, *arguments)

    return entered  # pyright: ignore[reportReturnType]


class Queue:
    """The runs of a home folder. `tick` is called every second, and starts and follows their processes."""

    def __init__(self, home: Home, devices: Sequence[str] | None = None):
        self.home, self.devices = home, list(devices or devices_of_machine())
        self.lock = RLock()  # of the entries, which pages and the driver of the queue change
        self.logs: dict[str, RunLog] = {}

    @property
    def paused(self) -> bool:
        """Whether no waiting run is started."""
        return bool(self.home.read("queue.json", {}).get("paused", False))

    @alone
    def pause(self, paused: bool) -> None:
        """Pause the queue, or let it go on. Runs that were started go on either way."""
        self.home.write("queue.json", {"paused": paused})

    def folder(self, id: str) -> Path:
        """Return the folder of an entry."""
        return self.home.folder("queue") / id

    def entries(self) -> list[Entry]:
        """Return all entries, in the order in which they run; those that cannot be read are left out."""
        found = [entry for path in self.home.folder("queue").glob(f"*/{ENTRY}") if (entry := read_entry(path))]
        return sorted(found, key=lambda entry: (entry.order, entry.id))

    def open_entries(self) -> list[Entry]:
        """Return the entries that run or wait."""
        return [entry for entry in self.entries() if entry.status in OPEN]

    def entry(self, id: str) -> Entry | None:
        """Return the entry with an ID, or None."""
        return read_entry(self.folder(id) / ENTRY) if "/" not in id and id not in ("", ".", "..") else None

    @alone
    def log(self, entry: Entry) -> RunLog:
        """Return what the run of an entry has reported so far: nothing before it is started."""
        file, log = self.event_file(entry), self.logs.get(entry.id)
        if log is None or (log.file, log.begin) != (file, entry.begin):
            log = self.logs[entry.id] = RunLog(file, entry.begin)
        if entry.device:  # it was started
            log.read()
        return log

    def event_file(self, entry: Entry) -> Path:
        """Return the file with the events of an entry.

        It is a copy unless the run goes on, as another run of its name writes into the same run folder.
        """
        own = self.folder(entry.id) / EVENTS
        return Path(entry.run_folder) / EVENTS if entry.status in ACTIVE or not own.is_file() else own

    @alone
    def add(self, draft: Draft, prompts: str = "") -> Entry:
        """Queue a run with a snapshot of its settings, and of the prompts of its sample images.

        Raises ConfigError for settings that cannot be read, NameTaken if another run has its name, and UserError if the
        disk refuses.
        """
        now = max([time.time(), *(entry.order + LATER for entry in self.entries())])
        id = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid4().hex[:8]}"
        folder = self.folder(id)
        try:
            run = self.snapshot(folder, draft, prompts)
            name, *others = names_of(run)
            title = f"{name} and {len(others)} more" if others else name
            run_folder = str(Path(run.save.output_dir) / f"{name}-run")
            entry = Entry(id, title, run_folder, order=now, queued=now, others=tuple(others))
            self.check_name(entry)
            self.save(entry)
        except UserError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return entry

    def runs_of_name(self, entry: Entry) -> list[Entry]:
        """Return the other entries with the run folder of an entry, in their order."""
        return [other for other in self.entries() if other.run_folder == entry.run_folder and other.id != entry.id]

    def check_name(self, entry: Entry) -> None:
        """Raise NameTaken if a run would take the place of another one, instead of going on with it."""
        others, folder = self.runs_of_name(entry), Path(entry.run_folder)
        known = {each.run_folder for each in self.entries()}
        new = settings_in(self.folder(entry.id) / SETTINGS)
        for other in reversed(others):
            if other.status not in OPEN and not has_results(folder):
                continue
            old = settings_in(self.folder(other.id) / SETTINGS)
            if differing := differences(old, new):
                what = f"there is a run of this name with other settings: {in_short(differing)}"
                raise NameTaken(what, folder, NAME_TAKEN, other.status not in OPEN, known)
            if same_length(old, new) and other.status in (*OPEN, "finished"):
                what = f"this run is in the list already, and is {other.status}"
                raise NameTaken(what, folder, "To go on with it, set more steps", other.status not in OPEN, known)
            return
        if not others and has_results(folder):
            raise NameTaken(
                "there is a word of this name, which the run would replace", folder, NAME_TAKEN, True, known
            )

    @alone
    def replace_earlier(self, run_folder: Path) -> None:
        """Move the word and the run in a run folder to the bin. Raises UserError if a run uses it or the disk refuses."""
        users = [entry for entry in self.open_entries() if entry.run_folder == str(run_folder)]
        if users:
            raise UserError(f"is used by a run that is {users[0].status}", run_folder.name, "Stop and remove it first")
        if files := files_of(run_folder):
            to_bin(self.home, files)

    def snapshot(self, folder: Path, draft: Draft, prompts: str) -> RunConfig:
        """Write the settings of a run and what they name into the folder of an entry, and return them."""
        with reporting_disk_errors(folder):
            folder.mkdir()
            values = with_masks(draft.values, folder)
            values["output_dir"] = str(self.output_folder(values.get("output_dir")))
            if prompts.strip() and not values.get("sample_prompts"):
                values["sample_prompts"] = str(folder / PROMPTS)
                (folder / PROMPTS).write_text(prompts, encoding="utf-8")
            run = Draft(values).run()
            write_config(run, folder / SETTINGS)
        return run

    def output_folder(self, given: str | None) -> Path:
        """Return the output folder of a run, which the page may then read: the home folder's, unless one is given."""
        if not given:
            return self.home.folder("outputs")
        return self.home.make_and_add_folder("outputs", str(self.home.root / Path(given).expanduser()))

    def save(self, entry: Entry) -> None:
        """Write an entry. Raises UserError if the disk refuses."""
        path = self.folder(entry.id) / ENTRY
        with reporting_disk_errors(path), atomic_write(path) as part:
            part.write_text(json.dumps(asdict(entry)), encoding="utf-8")

    @alone
    def move(self, id: str, by: int) -> None:
        """Move a waiting entry up (-1) or down (+1) among those that wait."""
        waiting = [entry for entry in self.entries() if entry.status == "waiting"]
        at = next((i for i, entry in enumerate(waiting) if entry.id == id), None)
        if at is None or not 0 <= at + by < len(waiting):
            return
        one, other = waiting[at], waiting[at + by]
        self.save(replace(one, order=other.order))
        self.save(replace(other, order=one.order))

    @alone
    def stop(self, id: str) -> None:
        """Stop a run after its current step, or take a waiting one off the queue; it can go on later.

        A run is asked only once, as it ends without saving when it is asked again.
        """
        entry = self.entry(id)
        if entry is None or entry.status not in ("waiting", "running"):
            return
        if entry.status == "waiting":
            self.save(replace(entry, status="stopped"))
            return
        self.save(replace(entry, status="stopping", asked=time.time()))
        entry.process.stop()

    @alone
    def end(self, id: str) -> None:
        """End a run that was asked to stop and does not: what it has not saved is lost. Raises UserError if it fails."""
        entry = self.entry(id)
        if entry is None or entry.status != "stopping":
            return
        try:
            entry.process.end()
        except OSError as error:
            raise UserError(f"cannot be ended ({error.strerror})", entry.token, "End its process yourself") from error

    @alone
    def go_on(self, id: str) -> None:
        """Queue a run again, which continues where it ended. Raises UserError if another run has taken its place."""
        entry = self.entry(id)
        if entry is None or entry.status in OPEN:
            return
        own = settings_in(self.folder(id) / SETTINGS)
        for other in self.runs_of_name(entry):
            differing = differences(own, settings_in(self.folder(other.id) / SETTINGS))
            if differing and other.order > entry.order:
                what = f"another run of this name came after this one, with other settings: {in_short(differing)}"
                raise UserError(what, entry.token, "Queue it again, under another name")
        self.save(replace(entry, status="waiting", order=time.time()))

    @alone
    def remove(self, id: str) -> None:
        """Remove an entry that does not run from the list. What its run has written stays."""
        entry = self.entry(id)
        if entry is not None and entry.status not in ACTIVE:
            shutil.rmtree(self.folder(id), ignore_errors=True)
            self.logs.pop(id, None)

    @alone
    def ask(self, id: str, request: Literal["save-now", "sample-now"]) -> None:
        """Ask a run to save its word or to generate sample images after its current step."""
        entry = self.entry(id)
        if entry is not None and entry.status == "running":
            with reporting_disk_errors(entry.run_folder):
                (Path(entry.run_folder) / request).touch()

    @alone
    def tick(self) -> None:
        """Follow the processes, and start waiting runs on devices that are free."""
        for entry in self.entries():
            if entry.status in ACTIVE and not entry.process.running():
                self.save(replace(entry, status=self.end_of(entry)))
                self.keep_events(entry)
        entries = self.entries()
        active = [entry for entry in entries if entry.status in ACTIVE]
        free = [device for device in self.devices if device not in {entry.device for entry in active}]
        folders = {entry.run_folder for entry in active}
        waiting = []
        for entry in entries:  # runs of one name run one after the other
            if entry.status == "waiting" and entry.run_folder not in folders:
                folders.add(entry.run_folder)
                waiting.append(entry)
        for entry, device in () if self.paused else zip(waiting, free, strict=False):
            self.start(entry, device)

    def in_use(self) -> dict[str, Entry]:
        """Return the devices that runs use now, each with its run."""
        return {entry.device: entry for entry in self.entries() if entry.status in ACTIVE}

    def keep_events(self, entry: Entry) -> None:
        """Copy the events of a run that has ended; a full disk does not matter."""
        with suppress(OSError):
            shutil.copyfile(Path(entry.run_folder) / EVENTS, self.folder(entry.id) / EVENTS)

    def start(self, entry: Entry, device: str) -> None:
        """Start the process of an entry on a device. Raises UserError if the disk refuses.

        The entry is written first: otherwise, a full disk would let the run be started again and again.
        """
        folder = self.folder(entry.id)
        size = size_of(Path(entry.run_folder) / EVENTS)
        is_own = entry.device and size == size_of(folder / EVENTS)  # nobody has written since it ended
        begin = entry.begin if is_own else size
        begun = replace(entry, status="running", device=device, pid=0, identity="", asked=0.0, begin=begin)
        self.save(begun)
        self.logs.pop(entry.id, None)
        words = ["train", f"--config_file={folder / SETTINGS}"]
        try:
            process = processes.start(words, self.home.root, folder / OUTPUT, device)
        except OSError:
            self.save(replace(entry, status="failed"))
            return
        try:
            self.save(replace(begun, pid=process.pid, identity=process.identity))
        except UserError:
            process.stop()
            raise

    def end_of(self, entry: Entry) -> Status:
        """Return how a run has ended: by the exit code of its process, else by what it reported last."""
        code = entry.process.exit_code()
        if code in (0, NOT_LEARNED):
            return "finished"
        if code == 2:
            return "failed"
        if entry.status == "running" and entry.process.ended_with_the_machine():
            return "waiting"  # it goes on by itself
        log = self.log(entry)
        if log.status == "finished":
            return "finished"
        if log.status == "failed":
            return "failed"
        return "stopped" if log.status == "stopped" or entry.status == "stopping" else "interrupted"

    def output(self, id: str, lines: int = LAST_LINES) -> str:
        """Return the last lines that a run has printed."""
        return "\n".join(last_lines(self.folder(id) / OUTPUT, lines))

    def settings(self, id: str) -> str:
        """Return the settings of an entry as TOML."""
        try:
            return (self.folder(id) / SETTINGS).read_text("utf-8")
        except OSError:
            return ""


def read_entry(path: Path) -> Entry | None:
    """Return the entry in a file, or None if it cannot be read."""
    try:
        entry = Entry(**json.loads(path.read_text("utf-8")))
        entry = replace(entry, others=tuple(entry.others))
        numbers, texts = (
            (entry.order, entry.pid, entry.queued, entry.asked, entry.begin),
            (entry.id, entry.token, entry.run_folder, entry.identity, *entry.others),
        )
        sound = all(isinstance(n, (int, float)) for n in numbers) and all(isinstance(text, str) for text in texts)
        return entry if sound and entry.status in get_args(Status) else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def last_lines(file: Path, count: int) -> Iterator[str]:
    """Yield the last lines of a file; none if it cannot be read."""
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - 400 * count))
            yield from opened.read().decode("utf-8", "replace").splitlines()[-count:]
    except OSError:
        return
