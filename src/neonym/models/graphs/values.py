"""Values that hold tensors, such as the inputs of a step: their shape, and replacing or overwriting the tensors."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

Value = TypeVar("Value")


def shape_of(value: Any) -> Hashable:
    """Return the shape and precision of every tensor in a value, and all that is not in tensors.

    Values of the same shape differ in nothing but the numbers in their tensors.
    """
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, list):
        return tuple(value)
    return tuple((name, shape_of(own)) for name, own in inside(value)) if holds_more(value) else value


def mapped(value: Value, function: Callable[[Tensor], Tensor]) -> Value:
    """Return a value with each of its tensors replaced by what a function returns for it."""
    if isinstance(value, Tensor):
        return function(value)  # pyright: ignore[reportReturnType]
    if isinstance(value, Mapping):
        return {name: mapped(own, function) for name, own in value.items()}  # pyright: ignore[reportReturnType]
    if holds_more(value):
        return replace(value, **{name: mapped(own, function) for name, own in inside(value)})  # pyright: ignore
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value."""
    if isinstance(value, Tensor):
        yield value
    elif holds_more(value):
        for _, own in inside(value):
            yield from tensors_in(own)


def copy_into(target: Any, source: Any) -> None:
    """Copy the numbers of all tensors of a value to the beginning of those of another, which may be longer."""
    for own, new in zip(tensors_in(target), tensors_in(source), strict=True):
        room = own.detach() if own.shape == new.shape else own.detach()[: len(new)]
        room.copy_(new.detach())


def holds_more(value: Any) -> bool:
    """Return whether a value is a record or a dictionary."""
    return isinstance(value, Mapping) or is_dataclass(value)


def inside(value: Any) -> Iterator[tuple[str, Any]]:
    """Return the parts of a record or a dictionary, with their names."""
    if isinstance(value, Mapping):
        return iter(value.items())
    return ((field.name, getattr(value, field.name)) for field in fields(value))
