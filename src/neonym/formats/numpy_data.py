"""numpy's arrays and numbers in pickled files, rebuilt as data: what a pickle calls numpy's functions stands for these.

A trainer on a Mac pickles its tensors as arrays, and a step that numpy counted is a number of its own. Only plain numbers
are taken; an array of objects, of texts or of records is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch._utils import _rebuild_device_tensor_from_numpy as from_array

NUMBERS = "?bhilqBHILQefdg"  # what a kind of plain numbers begins with, or its size is told after one of the next
SIZED = "biuf"


class Kind:
    """A dtype as pickles describe it: what it is called, then the order of its bytes."""

    dtype: np.dtype

    def __new__(cls, code: Any = "", *_: Any) -> Kind:
        kind = super().__new__(cls)
        text = code.decode("latin1") if isinstance(code, bytes) else str(code)
        if not (text in NUMBERS or (text[:1] in SIZED and text[1:].isdecimal())) or not text:
            raise ValueError(f"an array of {text[:20]!r} holds no plain numbers")
        kind.dtype = np.dtype(text)
        return kind

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else str(state[1])
        self.dtype = self.dtype.newbyteorder("=" if order == "|" else order)  # pyright: ignore[reportArgumentType]


class Numbers(np.ndarray):
    """An array that begins empty, whatever a pickle asks for, and takes exactly the bytes that are in the file."""

    def __new__(cls, *_: Any) -> Numbers:
        return super().__new__(cls, (0,), np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        _, shape, kind, by_columns, content = state
        super().__setstate__((1, tuple(shape), kind.dtype, bool(by_columns), bytes(content)))  # pyright: ignore

    def __reduce__(self) -> Any:
        raise TypeError("is read, never written")


def new_array(*_: Any) -> Numbers:
    return Numbers()


def number(kind: Kind, content: bytes) -> Any:
    """One number as Python has it."""
    return np.frombuffer(content, kind.dtype, count=1)[0].item()


MODULES = ("numpy.core", "numpy._core")  # before numpy 2, and since
ALLOWED: list[Any] = [
    (Kind, "numpy.dtype"),
    (Numbers, "numpy.ndarray"),
    *((new_array, f"{module}.multiarray._reconstruct") for module in MODULES),
    *((number, f"{module}.multiarray.scalar") for module in MODULES),
    (from_array, "torch._utils._rebuild_xla_tensor"),  # its name in old versions
]


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """Its numbers in the order of bytes that torch has. Raises TypeError for a kind that torch has not."""
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C", subok=False))
