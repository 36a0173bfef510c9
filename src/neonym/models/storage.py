"""Define how the frozen weights of a model are kept in memory. This module does not need torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scheme = Literal["fp8", "int8", "nf4"]
SCHEMES: tuple[Scheme, ...] = ("fp8", "int8", "nf4")
BYTES: dict[Scheme, float] = {"fp8": 1.0, "int8": 1.0, "nf4": 0.53125}  # per weight; nf4: 4 bits, 2 bytes for 64


@dataclass(frozen=True)
class Storage:
    """A frozen record of how the weights of a model are kept in memory. A scheme of None is the precision of its arithmetic."""

    denoiser: Scheme | None = None
    encoders: Scheme | None = None  # of T5 and language models; CLIP and all token tables stay as they are
    blocks_to_swap: int = 0  # blocks of the denoiser that wait in the memory of the CPU
    waiting: tuple[str, ...] = ()  # text encoders that wait there as a whole: those that no word has rows for


def spread(count: int, total: int) -> list[int]:
    """Return `count` indices, at most `total`, evenly spread over 0 to `total` - 1."""
    count = min(count, total)
    return [i * total // count for i in range(count)]


@dataclass(frozen=True)
class SchemeRules:
    """A frozen record of which scheme keeps the weights of a layer, by the layer's name.

    A beginning with a dot, such as `.norm`, also matches any later part of a name.
    """

    scheme: Scheme | None
    not_quantized: tuple[str, ...] = ()  # beginnings of layers that stay as they are: small ones that matter most
    in_int8: tuple[str, ...] = ()  # beginnings of large layers that matter most: int8 in every scheme

    def scheme_of(self, name: str) -> Scheme | None:
        """Return the scheme for the weights of the layer `name`."""
        if self.scheme is None or has_beginning(name, self.not_quantized):
            return None
        return "int8" if has_beginning(name, self.in_int8) else self.scheme


def has_beginning(name: str, beginnings: tuple[str, ...]) -> bool:
    """Return whether a dotted name begins with one of `beginnings`, or has it inside if it begins with a dot."""
    return any(start in name if start.startswith(".") else name.startswith(start) for start in beginnings)
