"""Find models on this machine, by the names of files and folders alone: nothing is opened."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import constants

from neonym.web.home import plain

ENDINGS = (".safetensors", ".ckpt", ".gguf")
OF_PARTS = (*ENDINGS, ".bin")  # of the weights in a Diffusers folder
INDEXES = ("model_index.json", "modular_model_index.json")  # of Diffusers folders
LEAST = 100 * 2**20  # bytes: smaller files are words, LoRAs or parts
DEPTH = 3  # folders below the one that is looked through
MOST = 200_000  # files and folders that are looked at
SECONDS = 10.0  # that a search takes at most
HUB = "Hugging Face"
# Folders of models in the folder of another program: ComfyUI, AUTOMATIC1111 and its forks, SwarmUI
IN_PROGRAMS = (
    "models/checkpoints", "models/diffusion_models", "models/unet", "models/diffusers", "models/Stable-diffusion",
    "Models/Stable-Diffusion", "Models/diffusion_models", "Models/unet",
)  # fmt: skip
PACKED = ("ComfyUI", "webui")  # folders in which a program lies if it was unpacked from an archive
# Folders of the user, of any case, and of machines to rent, in which programs are installed
USERS = ("ai", "applications", "apps", "code", "desktop", "documents", "downloads", "git", "projects", "repos", "src")
SHARED = ("/opt", "/workspace") if os.name == "posix" else ("C:/", "D:/")


@dataclass(frozen=True)
class FoundModel:
    """A model on this machine."""

    name: str  # as the setting takes it: a path, or the name of a repository whose files are here
    title: str
    place: str  # the program or the folder that it belongs to
    path: Path


@dataclass
class Search:
    """A search with an end: it looks at so many names, for so long, and enters no folder twice, as links make loops."""

    left: int = MOST
    end: float = field(default_factory=lambda: time.monotonic() + SECONDS)
    entered: set[tuple[int, int]] = field(default_factory=set)

    def entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """Return what is in a folder, by name; nothing if it cannot be read, or if the search is over."""
        if self.left <= 0 or time.monotonic() > self.end:
            return []
        with suppress(OSError), os.scandir(folder) as entries:
            shown = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
            self.left -= len(shown)
            return shown
        return []

    def enters(self, folder: Path) -> bool:
        """Return whether a folder is entered for the first time."""
        try:
            found = folder.stat()
        except OSError:
            return False
        is_new = (found.st_dev, found.st_ino) not in self.entered
        self.entered.add((found.st_dev, found.st_ino))
        return is_new

    def models(self, folder: Path, depth: int = DEPTH) -> Iterator[Path]:
        """Yield the checkpoints and Diffusers folders in a folder; a Diffusers folder is not looked into."""
        if not self.enters(folder):
            return
        entries = self.entries(folder)
        if any(entry.name in INDEXES for entry in entries):
            yield folder
            return
        for entry in entries:
            if is_large(entry):
                yield Path(entry.path)
        for entry in entries if depth else ():
            if is_folder(entry):
                yield from self.models(Path(entry.path), depth - 1)

    def programs(self) -> Iterator[Path]:
        """Yield the folders of other programs for images, in the usual places."""
        home = Path.home()
        usual = [Path(entry.path) for entry in self.entries(home) if entry.name.lower() in USERS and is_folder(entry)]
        for place in (home, *usual, *map(Path, SHARED)):
            for entry in self.entries(place):
                program = Path(entry.path)
                yield from (own for own in (program, *map(program.joinpath, PACKED)) if parts_of(own))


def find_models(named: Iterable[Path]) -> list[FoundModel]:
    """Return the models in the folders that the user named, of other programs, and of the Hugging Face cache."""
    search = Search()
    found: list[FoundModel] = []
    for folder in (*named, *search.programs()):
        for part in parts_of(folder.parent if folder.name.lower() == "models" else folder) or [folder]:
            found += [in_folder(path, part, folder.name) for path in search.models(part)]
    return [
        model for model in (*found, *in_hub_cache(search)) if model.name == plain(model.name)
    ]  # a config file needs Unicode


def in_folder(path: Path, folder: Path, place: str) -> FoundModel:
    """Return the model at a path in a folder that is looked through."""
    return FoundModel(str(path), str(path.relative_to(folder)) if path != folder else path.name, place, path)


def parts_of(program: Path) -> list[Path]:
    """Return the folders with models in the folder of a program; none if it is no such program."""
    with suppress(OSError):
        return [folder for part in IN_PROGRAMS if (folder := program / part).is_dir()]
    return []


def in_hub_cache(search: Search) -> Iterator[FoundModel]:
    """Yield the Diffusers models in the cache of Hugging Face: by their name if it is the version that the name means."""
    for entry in search.entries(Path(constants.HF_HUB_CACHE)):
        kind, _, repository = entry.name.partition("--")
        name = "/".join(repository.split("--", 1))
        for version in search.entries(Path(entry.path) / "snapshots") if kind == "models" and "/" in name else ():
            folder = Path(version.path)
            if has_weights(folder, search):
                is_current = version.name == current_version(Path(entry.path))
                title = name if is_current else f"{name}, version {version.name[:8]}"
                yield FoundModel(name if is_current else str(folder), title, HUB, folder)


def has_weights(folder: Path, search: Search) -> bool:
    """Return whether a Diffusers folder is more than the configs by which a model is recognised."""
    parts = search.entries(folder)
    files = (file for part in parts if is_folder(part) for file in search.entries(Path(part.path)))
    return any(part.name in INDEXES for part in parts) and any(is_large(file, OF_PARTS) for file in files)


def is_on_this_machine(name: str) -> bool:
    """Return whether a name is that of a built-in model, of a path, or of a repository in the cache."""
    with suppress(OSError, ValueError):
        repository = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
        is_cached = name.count("/") == 1 and bool(current_version(repository))
        return name.startswith("builtin:") or (name != "" and Path(name).exists()) or is_cached
    return False


def current_version(repository: Path) -> str:
    """Return the version of a repository in the cache that its name means, "" if it has none."""
    with suppress(OSError, ValueError):
        return (repository / "refs" / "main").read_text("ascii").strip()
    return ""


def is_large(entry: os.DirEntry[str], endings: tuple[str, ...] = ENDINGS) -> bool:
    """Return whether a directory entry is a file of these kinds that is large enough for a model."""
    with suppress(OSError):
        return entry.name.lower().endswith(endings) and entry.is_file() and entry.stat().st_size >= LEAST
    return False


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether a directory entry is a folder. A link that points to itself is not."""
    with suppress(OSError):
        return entry.is_dir()
    return False
