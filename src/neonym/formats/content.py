"""Describe what an embedding file holds, before its words are identified."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from neonym.errors import FormatError, in_one_line

MOST_NUMBERS = 1 << 22  # in all tensors together: a thousand vectors of the widest encoder
MOST_TENSORS = 256

Container = Literal["safetensors", "zip", "old pickle", "picture"]


@dataclass(frozen=True)
class FileContent:
    """The content of an embedding file as it was written: its table of values, and the container around it."""

    ending: str
    container: Container
    table: Mapping[str, Any]  # tensors; from pickles and images, other values too
    metadata: Mapping[str, str] = field(default_factory=dict)  # from a .safetensors file, or our comment in an archive
    entries: frozenset[str] = frozenset()  # the names in a zip archive, without its folder
    # For a list, `table` holds the joined parts
    top: Literal["table", "list of tables", "list of tensors", "tensor"] = "table"
    unread: int = 0  # number of tensors that are not words, such as the weights of a LoRA

    @property
    def listed(self) -> bool:
        """Whether the file holds a list instead of a table."""
        return self.top.startswith("list")

    @property
    def inner(self) -> Any:
        """The value of the web UI's key `string_to_param`, or None if there is none."""
        return self.table.get("string_to_param")

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors under `string_to_param` if there is such a key, else those at the top of the table."""
        return tensors_in(self.table if self.inner is None else self.inner)


def ending_of(path: Path) -> str:
    """Return the extension of a file in lower case, without the dot."""
    return path.suffix.removeprefix(".").lower()


def printable_name(name: str) -> str:
    """Return the name of a tensor in a form that is safe to print: names in files come from anybody."""
    return in_one_line(name[:80])


def tensors_in(content: Any) -> dict[str, Tensor]:
    """Return the tensors of a table by name. Parameters become plain tensors; a bare tensor is named `*`."""
    if isinstance(content, Tensor):
        return {"*": content.detach()}
    if isinstance(content, torch.nn.ParameterDict):
        content = content.__dict__.get("_parameters")  # `items` needs what files of older versions of torch lack
    items = content.items() if isinstance(content, Mapping) else ()
    return {str(name): value.detach() for name, value in items if isinstance(value, Tensor)}


def check_size(shapes: Mapping[str, Sequence[int]], path: Path) -> None:
    """Raise FormatError if there are more or larger tensors than an embedding has, before any is loaded."""
    if len(shapes) > MOST_TENSORS:
        raise FormatError(f"has {len(shapes)} tensors: it is not an embedding{likely_kind(shapes)}", str(path))
    total = 0
    for name, shape in shapes.items():
        total += prod(shape)
        if total > MOST_NUMBERS:
            what = f"{printable_name(name)}: the shape {tuple(shape)} is too large: it is not an embedding{likely_kind(shapes)}"
            raise FormatError(what, str(path))


def check_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise FormatError if a tensor is not a plain table of a plausible size.

    A file of a few kilobytes can claim to hold a table of any size.
    """
    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_nested or tensor.is_quantized:
            raise FormatError(f"{printable_name(name)}: is not a plain table of numbers", str(path))
    check_size({name: tensor.shape for name, tensor in tensors.items()}, path)


def likely_kind(names: Iterable[str]) -> str:
    """Return the end of an error message that says what a file with these tensors probably is, or an empty string."""
    if any(name.startswith(("model.diffusion_model.", "first_stage_model.")) for name in names):
        return " but a model"
    if any(name.startswith(("text_model.", "cond_stage_model.")) for name in names):
        return " but a text encoder"
    return " but a LoRA without words" if any("lora_" in name for name in names) else ""
