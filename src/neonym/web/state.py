"""Hold all that the pages share: the home folder, the queue, the processes beside the server, and the models."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neonym import UserError
from neonym.io.atomic import atomic_write
from neonym.web.bin import to_bin
from neonym.web.disk import reporting_disk_errors
from neonym.web.home import Home, plain_values
from neonym.web.images import modified_ns
from neonym.web.library import STEP
from neonym.web.model_list import ModelList
from neonym.web.queue import ACTIVE, Entry, Queue
from neonym.web.work import Workers, inspect


@dataclass(frozen=True)
class State:
    """The state of the server."""

    home: Home
    queue: Queue
    workers: Workers
    models: ModelList
    known: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)  # files that were inspected

    async def inspected(self, file: Path) -> dict[str, Any]:
        """Return what an embedding file holds, which is looked up once as long as it does not change."""
        key = (str(file), modified_ns(file))
        if key not in self.known:
            self.known[key] = plain_values(await self.workers.do("checks", inspect, file))
        return self.known[key]

    def use(self, entry: Entry, file: Path) -> Path:
        """Make the word of a step the word of its run, and return its file. The one before goes to the bin.

        Raises UserError if the run goes on, or if the disk refuses: the word is then what it was.
        """
        target = Path(entry.run_folder).with_name(STEP.sub("", file.stem) + file.suffix)
        if not (self.home.allows(file) and self.home.allows(target)):
            raise UserError("is outside of the folders of this page", str(file))
        if any(each.status in ACTIVE and each.run_folder == entry.run_folder for each in self.queue.entries()):
            raise UserError("would be replaced at the end of its run, which goes on", target.name, "Stop the run first")
        with reporting_disk_errors(target), atomic_write(target, lasting=True) as part:
            shutil.copyfile(file, part)
            if target.is_file():  # only now, as the disk may be full
                to_bin(self.home, [target])
        return target
