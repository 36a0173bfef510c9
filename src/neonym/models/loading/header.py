"""Describe what the header of a weight file says: names, shapes and types, without a single number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Literal

Shape = tuple[int, ...]
PACKED = ".quant_state.bitsandbytes__nf4"  # after the name of a weight whose numbers are packed by two in a byte


@dataclass(frozen=True)
class Header:
    """The names, shapes and metadata in a checkpoint file."""

    shapes: Mapping[str, Shape]
    metadata: Mapping[str, str] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)  # "BF16", "F8_E4M3", "Q4_K"; empty for pickles
    container: Literal["safetensors", "pickle", "gguf"] = "safetensors"

    def has(self, start: str) -> bool:
        """Return whether any name has the prefix `start`."""
        return any(name.startswith(start) for name in self.shapes)

    def count(self, pattern: Callable[[str], str | None]) -> int:
        """Return the number of distinct results of `pattern` over all names, not counting None."""
        return len({found for name in self.shapes if (found := pattern(name)) is not None})


@dataclass(frozen=True)
class Part:
    """The tensors of a file whose names have one prefix. Names are looked up, so none of the others is visited."""

    header: Header
    prefix: str = ""

    def __contains__(self, name: str) -> bool:
        return f"{self.prefix}{name}" in self.header.shapes

    def shape(self, name: str) -> Shape:
        """Return the shape of a weight, unpacked. Raises KeyError if it is missing or its shape is unknown."""
        full = f"{self.prefix}{name}"
        stored = self.header.shapes[full]
        if f"{full}{PACKED}" not in self.header.shapes:
            return stored
        rows = self.header.shapes[f"{full.removesuffix('weight')}bias"][0]  # the packed shape does not record them
        return rows, prod(stored) * 2 // rows

    def size(self, name: str, axis: int) -> int | None:
        """Return one side of a weight, or None if the weight or the side is missing."""
        try:
            return self.shape(name)[axis]
        except (KeyError, IndexError):
            return None

    def layers(self, name: str) -> int:
        """Return the number of layers. `name`, with {} for the index, is a weight that each of them has."""
        count = 0
        while name.format(count) in self:
            count += 1
        return count

    def names(self) -> Iterator[str]:
        """Yield the names without the prefix."""
        for name in self.header.shapes:
            if name.startswith(self.prefix):
                yield name.removeprefix(self.prefix)
