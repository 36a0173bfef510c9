"""Losses of training steps that stay on their device until one of them is read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, overload
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from torch import Tensor


class LossQueue:
    """The losses that have not been read yet: reading one fetches all of them in one transfer from the device."""

    def __init__(self) -> None:
        # losses that no listener holds need not be fetched
        self._waiting: WeakValueDictionary[int, Losses] = WeakValueDictionary()
        self._numbers = count()
        self._lock = Lock()

    def add(self, values: Tensor) -> Losses:
        """Return the losses of one step, a copy of the `values` [N], without waiting for the device."""
        losses = Losses(values.clone(), self)
        with self._lock:
            self._waiting[next(self._numbers)] = losses
        return losses

    def fetch(self) -> None:
        """Fetch all losses that have not been read yet."""
        with self._lock:
            waiting = list(self._waiting.values())
            self._waiting.clear()
            if waiting:
                from torch import stack

                table = stack([losses._values for losses in waiting]).tolist()  # [S,N]: the only wait for the device
                for losses, row in zip(waiting, table, strict=True):
                    losses._numbers = tuple(row)


class Losses(Sequence[float]):
    """The loss of each word in one step: a sequence of floats that is fetched when it is first read."""

    __slots__ = ("__weakref__", "_numbers", "_queue", "_values")  # so that no listener can change it for the others

    def __init__(self, values: Tensor, queue: LossQueue):
        self._values, self._numbers = values, tuple[float, ...]()
        self._queue = queue

    @property
    def is_fetched(self) -> bool:
        """Whether the numbers have been fetched from their device."""
        return bool(self._numbers) or not len(self)

    def read(self) -> tuple[float, ...]:
        """Return the numbers, waiting for the device if they have not been fetched yet."""
        if not self.is_fetched:
            self._queue.fetch()
        return self._numbers

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[float]: ...
    def __getitem__(self, index: int | slice) -> float | Sequence[float]:
        return self.read()[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self.read() == tuple(other)

    def __hash__(self) -> int:
        return hash(self.read())

    def __repr__(self) -> str:
        return repr(self._numbers) if self.is_fetched else f"<losses of {len(self)} words, not fetched>"
