"""The queue of runs: files in the home folder, so that it survives the page and the machine.

Each entry is a folder with the settings as they were when it was queued, its state, and the output of its process.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import wraps
from pathlib import Path
from threading import RLock
from typing import Any, Literal, TypeVar, get_args
from uuid import uuid4

from neonym import RunConfig, UserError
from neonym.config.command_line import write_config
from neonym.io.atomic import atomic_write
from neonym.io.devices import devices as devices_of_machine
from neonym.web import processes
from neonym.web.disk import written
from neonym.web.draft import Draft
from neonym.web.home import Home
from neonym.web.masks import with_masks
from neonym.web.processes import Process
from neonym.web.run_log import RunLog

Status = Literal["waiting", "running", "stopping", "stopped", "interrupted", "finished", "failed"]
ENTRY, SETTINGS, OUTPUT, PROMPTS = "entry.json", "settings.toml", "output.txt", "prompts.txt"
OPEN = ("waiting", "running", "stopping")
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

    @property
    def process(self) -> Process:
        """The process of the run, which may have ended."""
        return Process(self.pid, self.identity)


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
        """Return what the run of an entry has reported so far."""
        log = self.logs.setdefault(entry.id, RunLog(Path(entry.run_folder) / "events.jsonl"))
        log.read()
        return log

    @alone
    def add(self, draft: Draft, prompts: str = "") -> Entry:
        """Queue a run with a snapshot of its settings, and of the prompts of its sample images.

        Raises ConfigError for settings that cannot be read, and UserError if the disk refuses.
        """
        now = max([time.time(), *(entry.order + LATER for entry in self.entries())])
        id = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid4().hex[:8]}"
        folder = self.folder(id)
        try:
            run = self.snapshot(folder, draft, prompts)
            name = run.save.output_name or run.concept.token_string or ""
            entry = Entry(id, name, str(Path(run.save.output_dir) / f"{name}-run"), order=now, queued=now)
            self.save(entry)
        except UserError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return entry

    def snapshot(self, folder: Path, draft: Draft, prompts: str) -> RunConfig:
        """Write the settings of a run and what they name into the folder of an entry, and return them."""
        with written(folder):
            folder.mkdir()
            values = with_masks(draft.values, folder)
            values["output_dir"] = str(self.output_folder(values.get("output_dir")))
            if not values.get("token_string"):  # the words are in a dataset file: the run has a name nevertheless
                values.setdefault("output_name", f"words-{folder.name}")
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
        return self.home.name_if_new("outputs", str(self.home.root / Path(given).expanduser()))

    def save(self, entry: Entry) -> None:
        """Write an entry. Raises UserError if the disk refuses."""
        path = self.folder(entry.id) / ENTRY
        with written(path), atomic_write(path) as part:
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
        """Stop a run after its current step, or take a waiting one off the queue; it can go on later."""
        entry = self.entry(id)
        if entry is None or entry.status not in OPEN:
            return
        if entry.status == "waiting":
            self.save(replace(entry, status="stopped"))
            return
        self.save(replace(entry, status="stopping"))
        entry.process.stop()

    @alone
    def go_on(self, id: str) -> None:
        """Queue a run again, which continues where it ended."""
        entry = self.entry(id)
        if entry is not None and entry.status not in OPEN:
            self.logs.pop(id, None)
            self.save(replace(entry, status="waiting", order=time.time()))

    @alone
    def remove(self, id: str) -> None:
        """Remove an entry that does not run from the list. What its run has written stays."""
        entry = self.entry(id)
        if entry is not None and entry.status not in ("running", "stopping"):
            shutil.rmtree(self.folder(id), ignore_errors=True)
            self.logs.pop(id, None)

    @alone
    def ask(self, id: str, request: Literal["save-now", "sample-now"]) -> None:
        """Ask a run to save its word or to generate sample images after its current step."""
        entry = self.entry(id)
        if entry is not None and entry.status == "running":
            with written(entry.run_folder):
                (Path(entry.run_folder) / request).touch()

    @alone
    def tick(self) -> None:
        """Follow the processes, and start waiting runs on devices that are free."""
        for entry in self.entries():
            if entry.status in ("running", "stopping") and not entry.process.running():
                self.save(replace(entry, status=self.end_of(entry)))
        entries = self.entries()
        busy = {entry.device for entry in entries if entry.status in ("running", "stopping")}
        free = [device for device in self.devices if device not in busy]
        waiting = [entry for entry in entries if entry.status == "waiting"]
        for entry, device in () if self.paused else zip(waiting, free, strict=False):
            self.start(entry, device)

    def start(self, entry: Entry, device: str) -> None:
        """Start the process of an entry on a device. Raises UserError if the disk refuses.

        The entry is written first: otherwise, a full disk would let the run be started again and again.
        """
        folder = self.folder(entry.id)
        begun = replace(entry, status="running", device=device, pid=0, identity="")
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
        numbers, texts = (
            (entry.order, entry.pid, entry.queued),
            (entry.id, entry.token, entry.run_folder, entry.identity),
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
