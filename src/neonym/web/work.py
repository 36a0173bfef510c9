"""The work that needs torch, done in two processes beside the server: one for checks, one that keeps a model loaded.

The functions here run in those processes. Errors of the user come back as values: some exceptions cannot be pickled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, TypeVar

from neonym.web.draft import OF_RECIPES, Draft
from neonym.web.models import is_on_this_machine
from neonym.web.parent import end_with_parent

Answer = TypeVar("Answer")
IDLE = 300.0  # seconds after which the model that tries words is released


@dataclass(frozen=True)
class Finding:
    """A problem of a run, in plain values."""

    severity: str
    text: str
    setting: str  # "": it is about none


@dataclass(frozen=True)
class Checked:
    """The answer to a check."""

    findings: tuple[Finding, ...]

    @property
    def ready(self) -> bool:
        """Whether the run can start."""
        return not any(finding.severity == "error" for finding in self.findings)


@dataclass(frozen=True)
class ModelAnswer:
    """The facts about a model, or the reason why it cannot be used."""

    label: str = ""
    process: str = ""
    native_size: int = 0
    defaults: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Pictures:
    """The images of a request, or why there are none."""

    files: tuple[Path, ...] = ()
    error: str = ""


class Workers:
    """Two processes beside the server. One that dies is replaced; the request that it had is answered with an error."""

    def __init__(self) -> None:
        self.pools: dict[str, ProcessPoolExecutor] = {}
        self.requests = 0  # that the process for images has not answered yet
        self.device = ""  # where that has its model, "" if it has none
        self.used = 0.0  # when it answered last

    async def do(self, pool: str, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Return what a function returns in the process of a pool. Raises RuntimeError if the process dies."""
        if pool not in self.pools:
            self.pools[pool] = ProcessPoolExecutor(1, get_context("spawn"), initializer=end_with_parent)
        used = self.pools[pool]
        try:
            return await asyncio.get_running_loop().run_in_executor(used, function, *arguments)
        except BrokenProcessPool as error:
            if self.pools.get(pool) is used:
                del self.pools[pool]
            raise RuntimeError("The process that did this has died: is there enough memory?") from error

    async def generate(self, request: Mapping[str, Any], folder: Path, device: str) -> Pictures:
        """Return images that are generated on a device: "cpu", "auto", or a GPU by its name in torch."""
        self.requests, self.device = self.requests + 1, device
        try:
            return await self.do("images", generate, request, folder, device)
        finally:
            self.requests, self.used = self.requests - 1, time.monotonic()

    def release(self, needed: Collection[str] = (), idle: float = IDLE) -> bool:
        """End the process for images, which frees its memory, if it does nothing, and return whether it did.

        It goes when nobody has used it for `idle` seconds, or when a run uses the GPU on which it has its model.
        """
        is_idle = self.device in needed or time.monotonic() - self.used > idle
        if self.requests or not self.device or not is_idle:
            return False
        self.device = ""
        if (pool := self.pools.pop("images", None)) is not None:
            pool.shutdown(wait=False)
        return True

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        for pool in self.pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        for process in active_children():
            process.terminate()


def check(values: Mapping[str, Any]) -> Checked:
    """Check the run that the settings of a draft describe."""
    import neonym
    from neonym.web.draft import by_setting

    try:
        problems = neonym.check(Draft(dict(values)).run())
    except neonym.NeonymError as error:
        problems = list(getattr(error, "problems", None) or [neonym.Problem("error", str(error), "")])
    found = [
        Finding(problem.severity, str(problem), setting)
        for setting, own in by_setting(problems, str(values.get("token_string", ""))).items()
        for problem in own
    ]
    return Checked(tuple(found))


def recognise(name: str) -> ModelAnswer:
    """Return what a model is."""
    import neonym

    try:
        facts = neonym.recognise(name, offline=True)
    except neonym.NeonymError as error:
        return ModelAnswer(error=str(error))
    defaults = {name: str(value) for name, value in facts.defaults.items()}
    return ModelAnswer(facts.label, facts.process, facts.native_size, defaults)


def pieces(text: str, model: str) -> list[str]:
    """Return the pieces of its vocabulary that the first text encoder of a model reads in a text; none if it fails."""
    import neonym

    try:
        return next(iter(neonym.pieces(text, model, offline=True).values()), [])
    except neonym.NeonymError:
        return []


def inspect(file: Path) -> dict[str, Any]:
    """Return what programs do with a word, as plain values: `programs`, `warnings` or an `error`."""
    import neonym

    try:
        facts = neonym.inspect(file)
    except neonym.NeonymError as error:
        return {"error": str(error)}
    return {"programs": dict(facts.programs), "warnings": list(facts.warnings),
            "words": [{"token": word.token, "fits": list(word.fits),
                       "encoders": {name: (own.vectors, own.width) for name, own in word.encoders.items()}}
                      for word in facts.words]}  # fmt: skip


def convert(file: Path, to: str, folder: Path) -> tuple[list[Path], str]:
    """Write a word in another layout into a folder, and return the files, or why that failed."""
    import neonym

    try:
        return neonym.convert(file, folder, to=to, overwrite=True), ""
    except neonym.NeonymError as error:
        return [], str(error)


def recipe(file: Path) -> tuple[dict[str, Any], str]:
    """Return the settings that a word was learned with, or why they are unknown."""
    import json

    import neonym

    try:
        word = neonym.read_embedding(file)
        known = json.loads(word.metadata.get("neonym.settings", "null"))
    except (neonym.NeonymError, ValueError) as error:
        return {}, str(error)
    if not isinstance(known, dict):
        return {}, f"{file.name} does not record how it was learned: only Neonym's files do."
    start = {"token_string": word.token, "init_word": word.metadata.get("neonym.init_word"),
             "pretrained_model_name_or_path": local_model(str(word.metadata.get("neonym.base_model", "")))}  # fmt: skip
    return {**start, **{name: value for name, value in known.items() if is_of_recipe(name, value)}}, ""


def is_of_recipe(name: str, value: object) -> bool:
    """Return whether a word may bring a setting along: no place, and no class that would be imported."""
    is_class = name in ("optimizer_type", "lr_scheduler_type") and "." in str(value)
    return name in OF_RECIPES and not is_class


def local_model(name: str) -> str:
    """Return the name of a model if it is on this machine, else "": a word must not make anything be downloaded."""
    return name if is_on_this_machine(name) else ""


LOADED: dict[tuple[str, str], Any] = {}  # the model that the process for images keeps, by its name and device
NO_MEMORY = "there is not enough memory on {device} to generate this. Choose fewer seeds, or another device"


def generate(request: Mapping[str, Any], folder: Path, device: str = "auto") -> Pictures:
    """Generate the images of a request into a folder: its keys are the arguments of `neonym.generate`, and `strength`."""
    import neonym
    from neonym.web.strength import scaled

    options = dict(request)
    name, strength = options.pop("model"), options.pop("strength", 1.0)
    try:
        if (name, device) not in LOADED:
            LOADED.clear()
            LOADED[name, device] = neonym.load_model(name, device)
        words = [scaled(neonym.read_embedding(file), strength) for file in options.pop("words")]
        images = neonym.generate(words=words, model=LOADED[name, device], **options)
    except (neonym.NeonymError, OSError) as error:
        return Pictures(error=str(error))
    except (RuntimeError, MemoryError) as error:
        LOADED.clear()
        is_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        return Pictures(error=f"{name}: {NO_MEMORY.format(device=device)}." if is_memory else first_line(error))
    return saved(images, folder)


def first_line(error: Exception) -> str:
    """Return the first line of an error of a library, or its kind if it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def saved(images: Sequence[Any], folder: Path) -> Pictures:
    """Write images into a folder, and return their files."""
    files = [folder / f"{i:02d}.png" for i in range(len(images))]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, image in zip(files, images, strict=True):
            image.save(file)
    except OSError as error:
        return Pictures(error=f"{folder} cannot be written ({error.strerror}).")
    return Pictures(tuple(files))


def sheet(rows: Sequence[tuple[str, Sequence[Path]]], heads: Sequence[str], file: Path) -> Pictures:
    """Put image files on one sheet with labels, and write it to a file."""
    from PIL import Image

    import neonym

    def opened(path: Path) -> Image.Image:
        with Image.open(path) as image:
            return image.convert("RGB")

    try:
        neonym.contact_sheet([(label, list(map(opened, files))) for label, files in rows], heads).save(file)
    except (neonym.NeonymError, OSError) as error:
        return Pictures(error=str(error))
    return Pictures((file,))
