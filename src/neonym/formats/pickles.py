"""Pickled files read as data: only tensors and plain containers, and only what fits in memory; no code is run."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from neonym.errors import FormatError
from neonym.unpickle import unpickle

LARGEST = 256 << 20  # bytes: an embedding is kilobytes, a LoRA that carries some rarely more


def load(path: Path) -> Any:
    """What a pickled file holds. Raises FormatError for one that is damaged, too large, or wants to run code."""
    check_size(path)
    try:
        return unpickle(path, [torch.nn.ParameterDict])  # the original implementation's files hold one
    except ValueError as error:
        raise FormatError(str(error), str(path)) from error


def check_size(path: Path) -> None:
    """Of the file, and of what it would be unpacked to."""
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
                packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise FormatError(f"is damaged ({error})", str(path)) from error
        if packed:
            raise FormatError("is a compressed archive, which no program writes", str(path))
    if size > LARGEST:
        raise FormatError(f"would take {size >> 20} MiB: that is no embedding", str(path))


def tensors_of(content: Any) -> dict[str, torch.Tensor]:
    """The tensors of a table, by name; parameters become plain tensors."""
    if isinstance(content, torch.Tensor):
        return {"*": content.detach()}
    items = content.items() if isinstance(content, (dict, torch.nn.ParameterDict)) else ()
    return {str(name): value.detach() for name, value in items if isinstance(value, torch.Tensor)}
