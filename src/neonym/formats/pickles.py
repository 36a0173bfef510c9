"""Read pickled files as data: tensors and plain containers of limited size. No code is run."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neonym.errors import FormatError
from neonym.formats import numpy_data
from neonym.formats.content import FileContent, check_tensors, ending_of, tensors_in
from neonym.formats.layout import Layout
from neonym.formats.tensors import parse_own_metadata
from neonym.io.pickles import load_pickle

DEEPEST = 3  # levels of nested tables
LARGEST = 256 << 20  # bytes: an embedding has kilobytes, a LoRA with embeddings rarely more than this


def read(path: Path) -> FileContent:
    """Return what a pickled file holds. Raises FormatError if it is damaged, too large, or would run code."""
    entries, comment = check_archive(path)
    try:
        content = without_numpy(load_pickle(path, [torch.nn.ParameterDict, *numpy_data.ALLOWED]))
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(str(error), str(path)) from error
    container, table, top = "zip" if entries else "old pickle", table_of(content), "table"
    if isinstance(content, list | tuple):
        table = joined_by_width(content, path)
        top = "list of tables" if all(isinstance(part, dict) for part in content) else "list of tensors"
    elif isinstance(content, torch.Tensor):
        top = "tensor"
    return FileContent(ending_of(path), container, table, parse_own_metadata(comment), entries, top)


def without_numpy(content: Any, depth: int = 0) -> Any:
    """Return the content with tensors instead of numpy arrays, down to the depth that embedding files have."""
    if isinstance(content, np.ndarray):
        return numpy_data.as_tensor(content)
    if type(content) in (dict, OrderedDict) and depth < DEEPEST:
        return {name: without_numpy(value, depth + 1) for name, value in content.items()}
    return (
        [without_numpy(value, depth + 1) for value in content] if type(content) is list and depth < DEEPEST else content
    )


def table_of(content: Any) -> dict[str, Any]:
    """Return the values of a table by name. A bare tensor is named `*`; other content gives an empty table."""
    if isinstance(content, torch.nn.ParameterDict):
        return dict(tensors_in(content))
    if isinstance(content, torch.Tensor):
        return {"*": content}
    return {str(name): value for name, value in content.items()} if isinstance(content, dict) else {}


def joined_by_width(content: Sequence[Any], path: Path) -> dict[str, torch.Tensor]:
    """Return all vectors of a list of tables or tensors, joined into one table per width, as ComfyUI reads them.

    Raises FormatError if a tensor is not a plain table.
    """
    parts = {f"{i}.{name}": rows for i, part in enumerate(content) for name, rows in tensors_in(part).items()}
    check_tensors(parts, path)
    by_width: dict[int, list[torch.Tensor]] = {}
    for rows in parts.values():
        if rows.ndim and rows.is_floating_point():
            by_width.setdefault(rows.shape[-1], []).append(rows.reshape(-1, rows.shape[-1]).float())
    return {str(width): torch.cat(rows) for width, rows in by_width.items()}


def check_archive(path: Path) -> tuple[frozenset[str], bytes]:
    """Check the unpacked size and the checksums of a file, and return the entries and the comment of its archive.

    Both are empty for a file in the old serialisation. Raises FormatError if the file is too large or damaged.
    """
    try:
        if not zipfile.is_zipfile(path):
            refuse_large(path.stat().st_size, path)
            return frozenset(), b""
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise FormatError("is a compressed archive, which no program writes for embeddings", str(path))
            refuse_large(sum(entry.file_size for entry in entries), path)
            damaged, comment = archive.testzip(), archive.comment
    except FormatError:
        raise
    except Exception as error:  # a damaged archive can fail in any way
        raise FormatError(f"is damaged ({error or 'it ends too early'})", str(path)) from error
    if damaged is not None:
        raise FormatError(f"is damaged (the checksum of {damaged[:80]} is wrong)", str(path))
    return frozenset(entry.filename.partition("/")[2] for entry in entries), comment


def refuse_large(size: int, path: Path) -> None:
    """Raise FormatError if `size`, in bytes, is too large for an embedding."""
    if size > LARGEST:
        raise FormatError(f"would take {size >> 20} MiB, too much for an embedding", str(path))


def begins(start: bytes) -> bool:
    """Return whether a file begins as a pickle, or as the zip archive around one."""
    return start.startswith((b"\x80", b"PK"))


LAYOUT = Layout("pickle", read, begins=begins)
