"""The bin of the home folder: words that were deleted with all that belongs to them, until it is emptied."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from neonym import UserError
from neonym.io.atomic import PART, atomic_write
from neonym.web.disk import reporting_disk_errors
from neonym.web.home import Home
from neonym.web.images import modified_ns
from neonym.web.library import size_of

ORIGINS = "origins.json"  # of each name in a folder of the bin: the folder in which it was


@dataclass(frozen=True)
class Deleted:
    """A folder in the bin, with what was deleted together."""

    folder: Path
    date: float  # seconds since 1970
    origins: dict[str, str]  # name -> the folder in which it was, "" if that is unknown

    @property
    def title(self) -> str:
        """The name of its word, or else of the first file."""
        return min(self.origins, key=lambda name: (not name.endswith(".safetensors"), name))

    @property
    def size(self) -> int:
        """The bytes that all of it takes."""
        files = (Path(at, name) for at, _, names in os.walk(self.folder) for name in names)
        return sum(size_of(file) for file in files if not file.is_symlink())


def to_bin(home: Home, files: Sequence[Path]) -> Path:
    """Move files of the output folders to a new folder in the bin, and return that. Raises UserError.

    Files elsewhere stay where they are.
    """
    own = [file for file in files if home.allows(file.parent)]
    folder = free_folder(home.folder("bin") / f"{time.strftime('%Y%m%d-%H%M%S')}-{files[0].stem}")
    with reporting_disk_errors(files[0], "cannot be moved to the bin"):
        folder.mkdir()
        with atomic_write(folder / ORIGINS) as part:
            part.write_text(json.dumps({file.name: str(file.parent) for file in own}), encoding="ascii")
        for file in own:
            shutil.move(file, folder / file.name)  # the bin may be on another disk
    return folder


def free_folder(wanted: Path) -> Path:
    """Return a path that does not exist: the wanted one, or one with a number behind it."""
    return next(path for i in range(10_000) if not os.path.lexists(path := wanted.with_name(f"{wanted.name}{i or ''}")))


def contents_of_bin(home: Home) -> list[Deleted]:
    """Return what is in the bin, the newest first."""
    found = [deleted for folder in home.folder("bin").glob("*") if (deleted := read_deleted(folder)) is not None]
    return sorted(found, key=lambda deleted: (-deleted.date, deleted.folder.name))


def read_deleted(folder: Path) -> Deleted | None:
    """Return what a folder in the bin holds, or None if it holds nothing."""
    try:
        found = (path.name for path in folder.iterdir())
        names = sorted(name for name in found if name != ORIGINS and not PART.fullmatch(name))
    except OSError:
        return None
    known = read_origins(folder / ORIGINS)
    date = modified_ns(folder / ORIGINS) or modified_ns(folder)
    return Deleted(folder, date / 1e9, {name: str(known.get(name, "")) for name in names}) if names else None


def read_origins(file: Path) -> dict[str, object]:
    """Return the folders in which files were, by their names; none if the file cannot be read."""
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(file.read_text("ascii"))
        return found if isinstance(found, dict) else {}
    return {}


def restore(home: Home, folder: Path) -> list[Path]:
    """Move what a folder in the bin holds back to where it was, and return the paths. Nothing is overwritten.

    Where a name is taken, or the page may not write there any more, all of it gets a folder of its own among the words.
    Raises UserError if it is not in the bin any more, or if the disk refuses.
    """
    deleted = read_deleted(folder) if folder.parent == home.folder("bin") else None
    if deleted is None:
        raise UserError("is not in the bin any more", folder.name, "Reload the page")
    with reporting_disk_errors(folder.name, "cannot be restored"):
        targets = {name: Path(origin) / name for name, origin in deleted.origins.items()}
        if not all(is_free(home, target) for target in targets.values()):
            own = free_folder(home.folder("outputs") / folder.name)
            own.mkdir()
            targets = {name: own / name for name in targets}
        for name, target in targets.items():
            shutil.move(folder / name, target)
        shutil.rmtree(folder)
    return list(targets.values())


def is_free(home: Home, target: Path) -> bool:
    """Return whether something can be moved to a path: to a folder of the page, in which nothing has that name."""
    is_known = target.is_absolute() and target.parent.is_dir() and home.allows(target.parent)
    return is_known and not os.path.lexists(target)


def empty_bin(home: Home) -> None:
    """Delete all that is in the bin for good. Raises UserError if the disk refuses."""
    with reporting_disk_errors(home.folder("bin"), "cannot be emptied"):
        for path in home.folder("bin").iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
