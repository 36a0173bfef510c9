"""The moments that the words of a process share: an image that several of them use is encoded once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from weakref import WeakValueDictionary

import numpy as np
import torch

MOST_KEPT = 2 << 30  # bytes of moments that no word has at the moment
Fetch = Callable[[Sequence[str]], Mapping[str, np.ndarray]]  # names of entries -> moments, float32 [2C,h,w] each


class SharedMoments:
    """The moments that the words of this process have, by the names of their entries in the cache.

    Those of regularisation images, which words usually have in common, are kept for later words, and can be exchanged
    with other processes: `fetch` returns those of the named ones that others have encoded.
    """

    def __init__(self, fetch: Fetch | None = None):
        self.fetch = fetch
        self._held: WeakValueDictionary[str, torch.Tensor] = WeakValueDictionary()
        self._kept: dict[str, torch.Tensor] = {}
        self._bytes = 0  # of what is kept
        self._new: deque[str] = deque()  # names that `take_new` has not returned yet; safe for two threads

    def find(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Return the moments, float32 [2C,h,w], of those names that are known here or elsewhere."""
        asked = list(dict.fromkeys(names))
        found = {name: moments for name in asked if (moments := self._held.get(name)) is not None}
        missing = [name for name in asked if name not in found]
        if missing and self.fetch is not None:
            for name, values in self.fetch(missing).items():
                found[name] = self._held[name] = torch.from_numpy(values.copy())  # what others wrote is read-only
                self._keep(name, found[name])
        return found

    def add(self, name: str, moments: torch.Tensor, is_common: bool) -> None:
        """Add moments, float32 [2C,h,w]. They are kept when no word has them any more if they are `is_common`."""
        self._held[name] = moments
        if is_common and self._keep(name, moments):
            self._new.append(name)

    def take_new(self) -> dict[str, np.ndarray]:
        """Return the common moments that were added since the last call, for other processes."""
        taken: dict[str, np.ndarray] = {}
        while self._new:
            name = self._new.popleft()
            if (moments := self._kept.get(name)) is not None:
                taken[name] = moments.numpy()
        return taken

    def forget(self) -> None:
        """Keep nothing any more: what words have at the moment is still shared."""
        self._kept, self._bytes = {}, 0

    def _keep(self, name: str, moments: torch.Tensor) -> bool:
        """Keep moments if there is room, and return whether they are kept."""
        size = moments.nbytes
        if name not in self._kept and self._bytes + size <= MOST_KEPT:
            self._kept[name] = moments
            self._bytes += size
        return name in self._kept
