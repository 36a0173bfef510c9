"""Hold all that the pages share: the home folder, the queue and the processes beside the server."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from neonym import UserError
from neonym.io.atomic import atomic_write
from neonym.web.home import Home
from neonym.web.queue import Entry, Queue
from neonym.web.work import Workers


@dataclass(frozen=True)
class State:
    """The state of the server."""

    home: Home
    queue: Queue
    workers: Workers

    def library_file(self, entry: Entry) -> Path:
        """Return the file of the word of a run, whether it is there or not."""
        return Path(entry.run_folder).with_name(f"{entry.token}.safetensors")

    def use(self, file: Path, target: Path) -> None:
        """Copy the word of a step to the place of the word. Raises UserError if the disk refuses."""
        if not (self.home.allows(file) and self.home.allows(target)):
            raise UserError("is outside of the folders of this page", str(file))
        try:
            with atomic_write(target, lasting=True) as part:
                shutil.copyfile(file, part)
        except OSError as error:
            raise UserError(f"cannot be written ({error.strerror})", str(target)) from error
