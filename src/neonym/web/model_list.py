"""The list of models that the pages offer: built-in ones, and those on this machine with what each is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from neonym.web.home import Home
from neonym.web.images import modified_ns
from neonym.web.models import FoundModel, find_models
from neonym.web.work import ModelAnswer, Workers, recognise

BUILT_IN = {
    "builtin:emoji": "small built-in model, for trying things out",
    "builtin:emoji-flow": "small built-in flow model, for trying things out",
}
FRESH = 30.0  # seconds for which a search counts


class ModelList:
    """The models on this machine. They are looked for while the pages show what is known already."""

    def __init__(self, home: Home, workers: Workers):
        self.home, self.workers = home, workers
        self.found: list[FoundModel] = []
        self.recognised: dict[tuple[str, int], ModelAnswer] = {}
        self.searched: tuple[tuple[str, ...], float] = ((), 0.0)  # the named folders, and when
        self.lock = asyncio.Lock()

    def names(self) -> dict[str, str]:
        """Return the names of the known models with what to show of each: recognised ones first."""
        shown = {name: f"{name}: {what}" for name, what in BUILT_IN.items()}
        rest: dict[str, str] = {}
        for model in self.found:
            answer = self.recognised.get(key_of(model))
            kind = "" if answer is None else f", {answer.label or 'not recognised'}"
            (shown if answer is None or answer.label else rest)[model.name] = f"{model.title}{kind} ({model.place})"
        return {**shown, **rest}

    async def look(self) -> AsyncIterator[None]:
        """Look for models, and at what they are; yield whenever more is known."""
        async with self.lock:
            await self.search()
        yield
        for model in self.found:
            async with self.lock:
                is_new = key_of(model) not in self.recognised
                if is_new:
                    self.recognised[key_of(model)] = await self.workers.do("checks", recognise, model.name)
            if is_new:
                yield

    async def search(self) -> None:
        """Look for models, unless that was done a moment ago."""
        folders = self.home.named("models")
        key = tuple(map(str, folders))
        if self.searched[0] != key or time.monotonic() - self.searched[1] > FRESH:
            self.found = await asyncio.to_thread(find_models, folders)
            self.searched = (key, time.monotonic())

    async def look_once(self) -> None:
        """Look for models until all that are there are known."""
        async for _ in self.look():
            pass


def key_of(model: FoundModel) -> tuple[str, int]:
    """Return a key of a model that changes when its file or folder does."""
    return model.name, modified_ns(model.path)
