"""Pickled files read as data: only tensors and plain containers, and only what fits in memory; no code is run."""

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
from neonym.formats.content import Stored, check_tensors, ending_of, tensors_of
from neonym.formats.tensors import read_metadata
from neonym.io.pickles import load_pickle

DEEPEST = 3  # tables in tables
LARGEST = 256 << 20  # bytes: an embedding is kilobytes, a LoRA that carries some rarely more


def read(path: Path) -> Stored:
    """What a pickled file holds. Raises FormatError for one that is damaged, too large, or wants to run code."""
    entries, comment = check_archive(path)
    try:
        content = plain(load_pickle(path, [torch.nn.ParameterDict, *numpy_data.ALLOWED]))
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(str(error), str(path)) from error
    container, table, top = "zip" if entries else "old pickle", as_table(content), "table"
    if isinstance(content, list | tuple):
        table = joined(content, path)
        top = "list of tables" if all(isinstance(part, dict) for part in content) else "list of tensors"
    elif isinstance(content, torch.Tensor):
        top = "tensor"
    return Stored(ending_of(path), container, table, read_metadata(comment), entries, top)


def plain(content: Any, depth: int = 0) -> Any:
    """The same with tensors for numpy's arrays, as deep as embedding files go."""
    if isinstance(content, np.ndarray):
        return numpy_data.as_tensor(content)
    if type(content) in (dict, OrderedDict) and depth < DEEPEST:
        return {name: plain(value, depth + 1) for name, value in content.items()}
    return [plain(value, depth + 1) for value in content] if type(content) is list and depth < DEEPEST else content


def as_table(content: Any) -> dict[str, Any]:
    """A tensor alone, or anything that has names."""
    if isinstance(content, torch.nn.ParameterDict):
        return dict(tensors_of(content))
    if isinstance(content, torch.Tensor):
        return {"*": content}
    return {str(name): value for name, value in content.items()} if isinstance(content, dict) else {}


def joined(content: Sequence[Any], path: Path) -> dict[str, torch.Tensor]:
    """All vectors of a list of tables or tensors: those of one width are one table, as ComfyUI reads them."""
    parts = {f"{i}.{name}": rows for i, part in enumerate(content) for name, rows in tensors_of(part).items()}
    check_tensors(parts, path)
    by_width: dict[int, list[torch.Tensor]] = {}
    for rows in parts.values():
        if rows.ndim and rows.is_floating_point():
            by_width.setdefault(rows.shape[-1], []).append(rows.reshape(-1, rows.shape[-1]).float())
    return {str(width): torch.cat(rows) for width, rows in by_width.items()}


def check_archive(path: Path) -> tuple[frozenset[str], bytes]:
    """What a file would be unpacked to, and its checksums. -> entries and comment of an archive; the old serialisation has none.

    Raises FormatError.
    """
    try:
        if not zipfile.is_zipfile(path):
            refuse_large(path.stat().st_size, path)
            return frozenset(), b""
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise FormatError("is a compressed archive, which no program writes", str(path))
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
    """Raises FormatError."""
    if size > LARGEST:
        raise FormatError(f"would take {size >> 20} MiB: that is no embedding", str(path))
