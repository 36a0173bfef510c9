"""Tensors of files whose numbers are made when they are placed, one at a time.

Names are converted, fused layers split and shapes compared before any number is read. A part of a model is therefore
never in memory in another form than its own, apart from one layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from neonym.models.quantization import Packed

# Functions that choose and order the rows of weights, and leave each row as it is
OF_ROWS = {torch.cat, torch.chunk, torch.split, torch.roll, Tensor.chunk, Tensor.split, Tensor.roll}


@dataclass(frozen=True)
class InFile:
    """A tensor in a file."""

    read: Callable[[], Tensor]  # its plain numbers
    is_plain: bool  # it is read as it is; otherwise, `read` makes numbers that are in no file
    fp8: Callable[[], Packed] | None = None  # its numbers as they are stored, if they have 8 bits


@dataclass(frozen=True)
class Derived:
    """A result of a function of other tensors."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    index: int | None = None  # which one, if the function returns several


class Deferred(Tensor):
    """A tensor with a shape, and with a description of how its numbers are made. It stays on the meta device.

    Functions of it return deferred tensors in turn.
    """

    origin: InFile | Derived

    @staticmethod
    def of(like: Tensor, origin: InFile | Derived) -> Deferred:
        """Return a deferred tensor with the shape of `like`, which is on the meta device."""
        made = like.as_subclass(Deferred)
        made.origin = origin
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            found, options = func(*args, **(kwargs or {})), kwargs or {}
            if isinstance(found, Tensor):
                return Deferred.of(found, Derived(func, args, options))
            if isinstance(found, (tuple, list)) and any(isinstance(one, Tensor) for one in found):
                return tuple(Deferred.of(one, Derived(func, args, options, i)) for i, one in enumerate(found))
        return found


def deferred(shape: tuple[int, ...], origin: InFile) -> Deferred:
    """Return the deferred tensor of a file."""
    return Deferred.of(torch.empty(shape, device="meta"), origin)


def ready(tensor: Tensor) -> Tensor:
    """Return a tensor with its numbers. Unless those are plain in the file, it keeps no other numbers in memory."""
    found = made(tensor, lambda own: own.read())
    is_piece = found.untyped_storage().nbytes() > found.nbytes
    return found.clone() if is_piece and not all(own.is_plain for own in files_of(tensor)) else found


def stored_fp8(tensor: Tensor) -> Packed | None:
    """Return weights in fp8 as their file has them; None if it has others, or if they are more than chosen rows."""
    files = files_of(tensor)
    if len(files) != 1 or files[0].fp8 is None or not has_rows_of_file(tensor):
        return None
    own = files[0].fp8()
    scale = own.scale if own.scale.numel() == 1 else made(tensor, lambda _: own.scale)
    return Packed("fp8", made(tensor, lambda _: own.numbers), scale, tuple(tensor.shape))


def has_rows_of_file(tensor: Tensor) -> bool:
    """Return whether a tensor consists of whole rows of a tensor in a file."""
    origin = tensor.origin if isinstance(tensor, Deferred) else None
    if not isinstance(origin, Derived):
        return origin is not None
    inputs = inputs_of(origin)
    is_chosen = origin.function in OF_ROWS and all(one.shape[1:] == tensor.shape[1:] for one in inputs)
    return is_chosen and all(map(has_rows_of_file, inputs))


def files_of(tensor: Tensor) -> list[InFile]:
    """Return the tensors in files, each once, that a tensor is made of."""
    origin = tensor.origin if isinstance(tensor, Deferred) else None
    if isinstance(origin, InFile):
        return [origin]
    found = [own for one in inputs_of(origin) for own in files_of(one)] if origin is not None else []
    return list({id(own): own for own in found}.values())


def inputs_of(origin: Derived) -> list[Tensor]:
    """Return the tensors that a function takes, also those in a list."""
    flat = [
        one
        for arg in (*origin.args, *origin.options.values())
        for one in (arg if isinstance(arg, (list, tuple)) else [arg])
    ]
    return [one for one in flat if isinstance(one, Tensor)]


def made(value: Any, read: Callable[[InFile], Tensor]) -> Any:
    """Return an argument of a function with the numbers that `read` returns for tensors in files."""
    if isinstance(value, (list, tuple)):
        return type(value)(made(one, read) for one in value)
    if not isinstance(value, Deferred):
        return value
    origin = value.origin
    if isinstance(origin, InFile):
        return read(origin)
    options = {name: made(option, read) for name, option in origin.options.items()}
    found = origin.function(*made(origin.args, read), **options)
    return found if origin.index is None else found[origin.index]
