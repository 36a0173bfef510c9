"""Hold all that the pages share: the home folder, the queue and the processes beside the server."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neonym import UserError
from neonym.io.atomic import atomic_write
from neonym.web.disk import written
from neonym.web.home import Home
from neonym.web.images import changed
from neonym.web.queue import Entry, Queue
from neonym.web.work import Workers, inspect


@dataclass(frozen=True)
class State:
    """The state of the server."""

    home: Home
    queue: Queue
    workers: Workers
    known: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)  # files that were inspected

    async def inspected(self, file: Path) -> dict[str, Any]:
        """Return what an embedding file holds, which is looked up once as long as it does not change."""
        key = (str(file), changed(file))
        if key not in self.known:
            self.known[key] = await self.workers.do("checks", inspect, file)
        return self.known[key]

    def library_file(self, entry: Entry) -> Path:
        """Return the file of the word of a run, whether it is there or not."""
        return Path(entry.run_folder).with_name(f"{entry.token}.safetensors")

    def use(self, file: Path, target: Path) -> None:
        """Copy the word of a step to the place of the word. Raises UserError if the disk refuses."""
        if not (self.home.allows(file) and self.home.allows(target)):
            raise UserError("is outside of the folders of this page", str(file))
        with written(target), atomic_write(target, lasting=True) as part:
            shutil.copyfile(file, part)
