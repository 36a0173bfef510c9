"""Describe what an embedding file holds, before it is known which part of it is the word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from neonym.errors import FormatError, in_one_line

MOST_NUMBERS = 1 << 22  # in all tensors together: a thousand vectors of the widest encoder there is
MOST_TENSORS = 256

Container = Literal["safetensors", "zip", "old pickle", "image"]


@dataclass(frozen=True)
class Stored:
    """A frozen record of a file as it was written: its table, and the container around it."""

    ending: str
    container: Container
    table: Mapping[str, Any]  # tensors, and for pickles and images whatever else there is
    metadata: Mapping[str, str] = field(default_factory=dict)  # from a .safetensors file, or our comment in an archive
    entries: frozenset[str] = frozenset()  # the names in a zip archive, without its folder
    top: Literal["table", "list of tables", "list of tensors", "tensor"] = (
        "table"  # if it is a list, `table` holds its parts joined
    )
    unread: int = 0  # how many tensors are not words, such as the weights of a LoRA

    @property
    def listed(self) -> bool:
        return self.top.startswith("list")

    @property
    def inner(self) -> Any:
        """Return the value of the web UI's key `string_to_param`, or None if the file has none."""
        return self.table.get("string_to_param")

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return the plain tensors of `string_to_param` if there is such a key, else those at the top of the table."""
        return tensors_of(self.table if self.inner is None else self.inner)


def ending_of(path: Path) -> str:
    return path.suffix.removeprefix(".").lower()


def shown(name: str) -> str:
    """Return the name of a tensor in a form that is safe to print, because somebody else chose it."""
    return in_one_line(name[:80])


def tensors_of(content: Any) -> dict[str, Tensor]:
    """Return the tensors of a table by name. Parameters become plain tensors, and a tensor alone is called `*`."""
    if isinstance(content, Tensor):
        return {"*": content.detach()}
    if isinstance(content, torch.nn.ParameterDict):
        content = content.__dict__.get("_parameters")  # `items` needs what files of older versions of torch lack
    items = content.items() if isinstance(content, Mapping) else ()
    return {str(name): value.detach() for name, value in items if isinstance(value, Tensor)}


def check_size(shapes: Mapping[str, Sequence[int]], path: Path) -> None:
    """Raise FormatError for more or larger tensors than an embedding has, before anything is computed."""
    if len(shapes) > MOST_TENSORS:
        raise FormatError(f"has {len(shapes)} tensors: that is no embedding{hint(shapes)}", str(path))
    total = 0
    for name, shape in shapes.items():
        total += prod(shape)
        if total > MOST_NUMBERS:
            what = f"{shown(name)}: the shape {tuple(shape)} is too large for an embedding{hint(shapes)}"
            raise FormatError(what, str(path))


def check_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise FormatError for tensors that are not plain tables of a plausible size.

    A few kilobytes can claim to be a table of any size.
    """
    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_nested or tensor.is_quantized:
            raise FormatError(f"{shown(name)}: is no plain table of numbers", str(path))
    check_size({name: tensor.shape for name, tensor in tensors.items()}, path)


def hint(names: Iterable[str]) -> str:
    """Return a hint for an error message: what a file with these tensors seems to be instead of an embedding."""
    if any(name.startswith(("model.diffusion_model.", "first_stage_model.")) for name in names):
        return " but a model"
    if any(name.startswith(("text_model.", "cond_stage_model.")) for name in names):
        return " but a text encoder"
    return " but a LoRA, and there is no word in it" if any("lora_" in name for name in names) else ""
