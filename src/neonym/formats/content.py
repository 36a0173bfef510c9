"""What an embedding file holds, before it is known which part of it is the word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from neonym.errors import FormatError

MOST_NUMBERS = 1 << 22  # of one tensor: a thousand vectors of the widest encoder there is
MOST_TENSORS = 16
FLOATS = {torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}

Container = Literal["safetensors", "zip", "old pickle", "picture"]


@dataclass(frozen=True)
class Stored:
    """A file as it was written: its table, and what of its wrapping decides which programs read it."""

    ending: str
    container: Container
    table: Mapping[str, Any]  # tensors, and for pickles and pictures whatever else there is
    metadata: Mapping[str, str] = field(default_factory=dict)  # of a .safetensors file, or our comment to an archive
    entries: frozenset[str] = frozenset()  # of a zip archive, without its folder

    @property
    def inner(self) -> Any:
        """The web UI's `string_to_param`, None if there is none."""
        return self.table.get("string_to_param")

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those of `string_to_param`, else those at the top, as plain tensors."""
        return tensors_of(self.table if self.inner is None else self.inner)


def tensors_of(content: Any) -> dict[str, Tensor]:
    """The tensors of a table, by name; parameters become plain tensors, and a tensor alone is called `*`."""
    if isinstance(content, Tensor):
        return {"*": content.detach()}
    items = content.items() if isinstance(content, (Mapping, torch.nn.ParameterDict)) else ()
    return {str(name): value.detach() for name, value in items if isinstance(value, Tensor)}


def check_kind(name: str, shape: tuple[int, ...], dtype: torch.dtype | None, path: Path) -> None:
    """Before anything is computed with it. Raises FormatError for what cannot be vectors."""
    numbers = 1
    for side in shape:
        numbers *= side
    if numbers > MOST_NUMBERS:
        raise FormatError(f"{name[:80]}: the shape {shape} is too large for an embedding", str(path))
    if dtype is not None and dtype not in FLOATS:
        raise FormatError(f"{name[:80]}: numbers of the kind {dtype} are no vectors", str(path))


def check_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A few kilobytes can claim to be a table of any size, or be no plain table at all. Raises FormatError."""
    if len(tensors) > MOST_TENSORS:
        raise FormatError(f"has {len(tensors)} tensors: that is no embedding", str(path))
    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_nested or tensor.is_quantized:
            raise FormatError(f"{name[:80]}: is no plain table of numbers", str(path))
        check_kind(name, tuple(tensor.shape), tensor.dtype, path)
