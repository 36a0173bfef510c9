"""The home folder of the page, and the other folders that it may read. No path outside of them is ever served."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neonym.errors import UserError
from neonym.io.atomic import alone_in, atomic_write
from neonym.io.json import as_json
from neonym.web.disk import reporting_disk_errors

FOLDERS = ("outputs", "datasets", "models", "queue", "presets", "bin", "images", "cache")
SERVED = ("outputs", "datasets")  # of the kinds of folders that the user names: those whose files the page shows
LEAST = 24  # random bytes in the token of the page


class Home:
    """The home folder: outputs, data sets, models, the queue, presets, a bin, generated images and thumbnails."""

    def __init__(self, root: Path):
        """Make the folder and what is in it. Raises UserError if that fails."""
        self.root = root.expanduser().resolve()
        with reporting_disk_errors(self.root, "cannot be the home folder", "Choose another --folder"):
            for name in FOLDERS:
                (self.root / name).mkdir(parents=True, exist_ok=True)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other servers away from the folder during the block. Raises UserError if there is one."""
        with alone_in(self.root / "queue") as alone:
            if not alone:
                fix = "Open that page, or choose another --folder"
                raise UserError("is the home folder of another page that is open", str(self.root), fix)
            yield

    def token(self) -> str:
        """Return the token of the page, which stays the same, in a file for its owner alone. Raises UserError."""
        file = self.root / "token"
        with reporting_disk_errors(file):
            if not file.is_file() or len(file.read_bytes()) < LEAST:
                self.write_private(file.name, secrets.token_urlsafe(LEAST))
            return file.read_text("ascii", errors="ignore").strip()

    def write_private(self, name: str, text: str) -> Path:
        """Write a file that only its owner can read in the home folder, and return it. Raises UserError."""
        file = self.root / name
        with reporting_disk_errors(file), atomic_write(file, private=True) as part:
            part.write_text(text, encoding="utf-8")
        return file

    def folder(self, name: str) -> Path:
        """Return one of FOLDERS."""
        return self.root / name

    def named(self, kind: str) -> list[Path]:
        """Return the folders of a kind: the home folder's own, then those that the user named."""
        own = [Path(path) for path in as_list(self.read("places.json", {}).get(kind)) if isinstance(path, str)]
        return [self.folder(kind), *own]

    def make_and_add_folder(self, kind: str, path: str) -> Path:
        """Make a folder if needed, and add it to those that the page reads. Raises UserError."""
        with reporting_disk_errors(path):
            Path(path).expanduser().mkdir(parents=True, exist_ok=True)
        return self.add_folder(kind, path)

    def add_folder(self, kind: str, path: str) -> Path:
        """Add a folder of the user's to those that the page reads. Raises UserError if it is not one."""
        folder = Path(path).expanduser().resolve()
        if not folder.is_dir():
            raise UserError("is not a folder", path, "Check the path")
        places = self.read("places.json", {})
        if kind in SERVED and (folder in Path.home().parents or folder == Path.home()):
            raise UserError("holds all of your files, which the page would serve", path, "Name a folder in it")
        if folder not in self.named(kind) and not (kind == "datasets" and self.allows(folder)):
            places[kind] = [*as_list(places.get(kind)), str(folder)]
            self.write("places.json", places)
        return folder

    def shown(self, path: Path) -> str:
        """Return a path as it is shown: from the home folder on, if it is in there."""
        return plain(str(path.relative_to(self.root) if path.is_relative_to(self.root) else path))

    def allows(self, path: Path) -> bool:
        """Return whether a path lies in the home folder, or in a folder that the user named for words or images.

        Links are followed. Folders of models are only looked through: nothing in them is served.
        """
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError):
            return False
        roots = [self.root, *(folder for kind in SERVED for folder in self.named(kind))]
        return any(real.is_relative_to(root.resolve()) for root in roots)

    def can_read(self, file: Path) -> bool:
        """Return whether a path is a file that the page may read."""
        try:
            return self.allows(file) and file.is_file()
        except OSError:  # its name is too long
            return False

    def read(self, name: str, default: Any) -> Any:
        """Return the content of a JSON file in the home folder, or a default if there is none of its type."""
        try:
            found = json.loads((self.root / name).read_text("utf-8"))
        except (OSError, ValueError):
            return default
        return found if isinstance(found, type(default)) else default

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file in the home folder. Raises UserError if the disk refuses."""
        path = self.root / name
        with reporting_disk_errors(path), atomic_write(path) as part:
            part.write_text(as_json(value, indent=1), encoding="utf-8")


def as_list(value: object) -> list[Any]:
    """Return a list as it is, and an empty one for anything else that a damaged file may hold."""
    return value if isinstance(value, list) else []


def plain(text: str) -> str:
    """Return a text of a file that can be shown: parts that are not Unicode are replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def plain_values(value: Any) -> Any:
    """Return a value with all texts in it as they can be shown."""
    if isinstance(value, dict):
        return {plain_values(key): plain_values(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain_values, value))
    return plain(value) if isinstance(value, str) else value
