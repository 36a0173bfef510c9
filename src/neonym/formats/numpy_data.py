"""Rebuild the numpy arrays and numbers of pickled files as data. These classes stand in for the functions of numpy.

Trainers on a Mac pickle their tensors as arrays, and a step that was counted with numpy is pickled as a numpy number.
Only plain numbers are accepted: arrays of objects, texts or records are refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch._utils import _rebuild_device_tensor_from_numpy as from_array

NUMBERS = "?bhilqBHILQefdg"  # the codes of plain numbers; after those in SIZED a size in bytes may follow
SIZED = "biuf"


class Kind:
    """A dtype as pickles describe it: first its name, then its byte order."""

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
    """An array that begins empty, whatever size a pickle asks for, and then holds just the bytes of the file."""

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
    """Return one numpy number as a Python number."""
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
    """Return an array as a tensor in native byte order. Raise TypeError for a dtype that torch does not have."""
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C", subok=False))
