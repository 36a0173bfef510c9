"""Pickled files read as data: only tensors and plain containers, and only what fits in memory; no code is run."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from neonym.errors import FormatError
from neonym.formats.content import Stored
from neonym.formats.tensors import read_metadata
from neonym.unpickle import unpickle

LARGEST = 256 << 20  # bytes: an embedding is kilobytes, a LoRA that carries some rarely more


def load(path: Path) -> Stored:
    """What a pickled file holds. Raises FormatError for one that is damaged, too large, or wants to run code."""
    entries, comment = check_archive(path)
    try:
        content = unpickle(path, [torch.nn.ParameterDict])  # the original implementation's files hold one
    except ValueError as error:
        raise FormatError(str(error), str(path)) from error
    return Stored(
        ending_of(path), "zip" if entries else "old pickle", as_table(content), read_metadata(comment), entries
    )


def as_table(content: Any) -> dict[str, Any]:
    """A tensor alone, or anything that has names."""
    if isinstance(content, torch.Tensor):
        return {"*": content}
    return {str(name): value for name, value in content.items()} if isinstance(content, dict) else {}


def ending_of(path: Path) -> str:
    return path.suffix.removeprefix(".").lower()


def check_archive(path: Path) -> tuple[frozenset[str], bytes]:
    """What a file would be unpacked to, and its checksums. -> entries and comment of an archive; the old serialisation has none.

    Raises FormatError.
    """
    try:
        if not zipfile.is_zipfile(path):
            refuse_large(path.stat().st_size, path)
            refuse_other(path)
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


def refuse_other(path: Path) -> None:
    """Raises FormatError for a file with the wrong ending."""
    with path.open("rb") as file:
        start = file.read(16)
    if start[8:9] == b"{" and start[:1] != b"\x80":
        raise FormatError("is a .safetensors file by its content", str(path), "Give it that ending")


def refuse_large(size: int, path: Path) -> None:
    """Raises FormatError."""
    if size > LARGEST:
        raise FormatError(f"would take {size >> 20} MiB: that is no embedding", str(path))
