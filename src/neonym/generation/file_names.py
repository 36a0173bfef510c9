"""Names for image files, as sd-scripts chooses them. No file is ever overwritten."""

from __future__ import annotations

import re
import time
from itertools import count
from pathlib import Path

from neonym.config.generate import GenerateSettings
from neonym.generation.request.jobs import Job


class FileNames:
    """The names of the image files of a run."""

    def __init__(self, settings: GenerateSettings):
        self.settings, self.folder = settings, Path(settings.outdir)
        self.stamp = time.strftime("%Y%m%d%H%M%S")
        self.offset = 0
        if settings.sequential_file_name and self.folder.is_dir():
            taken = (re.fullmatch(r"im_[01]?(\d{6})\.png", file.name) for file in self.folder.iterdir())
            self.offset = max((int(match[1]) for match in taken if match), default=0)

    def path(self, job: Job, number: int, stage: str = "") -> Path:
        """Return a path for the image of a job that does not exist yet; `number` counts the images of the run from 0.

        `stage` is "0" for the small image of two stages, "1" for the large one, and "" if there is only one.
        """
        return free_path(self.folder / self.name(job, number, stage))

    def sheet(self, kind: str) -> Path:
        """Return a path for a sheet of this kind, such as "grid", that does not exist yet."""
        return free_path(self.folder / f"{kind}_{self.stamp}.png")

    def name(self, job: Job, number: int, stage: str) -> str:
        """Return the name for a job's file, whether or not such a file exists already."""
        if job.file is not None:
            path = Path(job.file)
            return str(path.with_name(f"{path.stem}_small{path.suffix}")) if stage == "0" else job.file
        if self.settings.use_original_file_name and job.source is not None:
            return f"{Path(job.source).stem}{'_small' if stage == '0' else ''}.png"
        if self.settings.sequential_file_name:
            return f"im_{stage}{self.offset + number + 1:06d}.png"
        return f"im_{self.stamp}_{stage}{number:03d}_{job.seed}.png"


def free_path(wanted: Path) -> Path:
    """Return `wanted` or, if it exists, the first path with a number after the name that does not."""
    if not wanted.exists():
        return wanted
    others = (wanted.with_name(f"{wanted.stem}_{i}{wanted.suffix}") for i in count(2))
    return next(path for path in others if not path.exists())
