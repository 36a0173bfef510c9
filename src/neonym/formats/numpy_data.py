"""Rebuild numpy arrays and scalars in pickled files as data, with classes that replace numpy's own constructors.

Trainers on a Mac pickle their tensors as arrays, and a step counted with numpy is pickled as a numpy scalar. Only plain
numbers are accepted: arrays of objects, strings or records are refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch._utils import _rebuild_device_tensor_from_numpy as from_array

NUMBERS = "?bhilqBHILQefdg"  # numpy's type codes of plain numbers; those in SIZED may be followed by a size in bytes
SIZED = "biuf"


class PickledDtype:
    """A numpy dtype as pickles describe it: first its name, then its byte order."""

    dtype: np.dtype

    def __new__(cls, code: str | bytes = "", *_: object) -> PickledDtype:
        kind = super().__new__(cls)
        text = code.decode("latin1") if isinstance(code, bytes) else str(code)
        if not (text in NUMBERS or (text[:1] in SIZED and text[1:].isdecimal())) or not text:
            raise ValueError(f"an array of the type {text[:20]!r} does not hold plain numbers")
        kind.dtype = np.dtype(text)
        return kind

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else str(state[1])
        self.dtype = self.dtype.newbyteorder("=" if order == "|" else order)  # pyright: ignore[reportArgumentType]


class PickledArray(np.ndarray):
    """An array that starts empty, whatever size a pickle asks for, and then holds only the bytes in the file."""

    def __new__(cls, *_: object) -> PickledArray:
        return super().__new__(cls, (0,), np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        _, shape, kind, by_columns, content = state
        super().__setstate__((1, tuple(shape), kind.dtype, bool(by_columns), bytes(content)))  # pyright: ignore

    def __reduce__(self) -> Any:
        raise TypeError("cannot be pickled: this class is for reading only")


def new_array(*_: object) -> PickledArray:
    """Return an empty array, as numpy does before a pickle fills it."""
    return PickledArray()


def numpy_number(kind: PickledDtype, content: bytes) -> Any:
    """Return a numpy scalar as a Python number."""
    return np.frombuffer(content, kind.dtype, count=1)[0].item()


MODULES = ("numpy.core", "numpy._core")  # up to numpy 1, and since numpy 2
ALLOWED: list[Any] = [
    (PickledDtype, "numpy.dtype"),
    (PickledArray, "numpy.ndarray"),
    *((new_array, f"{module}.multiarray._reconstruct") for module in MODULES),
    *((numpy_number, f"{module}.multiarray.scalar") for module in MODULES),
    (from_array, "torch._utils._rebuild_xla_tensor"),  # its name in old versions
]


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """Return an array as a tensor in native byte order. Raises TypeError if torch does not have its dtype."""
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C", subok=False))
