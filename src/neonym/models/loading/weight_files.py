"""Read checkpoint files as data: names and shapes without weights, tensors without a second copy, hashes of parts."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from neonym.errors import ModelError
from neonym.io.pickles import load_pickle
from neonym.models.loading.gguf_files import is_gguf, read_gguf_header
from neonym.models.loading.header import Header

if TYPE_CHECKING:
    from torch import Tensor

PICKLED = (".ckpt", ".pt", ".pth", ".bin")
ENDINGS = (".safetensors", ".gguf", *PICKLED)
HASHES = 256  # of files that are kept in memory
INERT = (  # classes and functions in old training checkpoints, beside the weights; empty placeholders replace them
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.utilities.enums.ModelSummaryMode",
    *(f"numpy.{core}.multiarray.{call}" for core in ("core", "_core") for call in ("scalar", "_reconstruct")),
    "numpy.ndarray",
    "numpy.dtype",
)


class Placeholder:
    """A placeholder for a class or function that is not needed.

    It accepts any arguments and state, and keeps nothing.
    """

    def __init__(self, *args: object):
        del args

    def __setstate__(self, state: object) -> None:
        del state


def is_safetensors(file: Path) -> bool:
    """Return whether a file is a .safetensors file by its extension or content; some have the extension of a pickle."""
    try:
        with file.open("rb") as opened:
            start = opened.read(9)
    except OSError:
        start = b""
    return file.suffix.lower() == ".safetensors" or (start[8:] == b"{" and start[6:8] == b"\0\0")


def read_header(file: Path) -> Header:
    """Return the names and shapes in a file. Raises ModelError if it is damaged or would run code."""
    if is_gguf(file):
        return read_gguf_header(file)
    if is_safetensors(file):
        try:
            with safe_open(file, framework="np") as opened:
                slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
                shapes = {name: tuple(found.get_shape()) for name, found in slices.items()}
                dtypes = {name: str(found.get_dtype()) for name, found in slices.items()}
                return Header(shapes, dict(opened.metadata() or {}), dtypes)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"is damaged or is not a .safetensors file ({error})", str(file)) from error
    tensors = read_pickled(file)
    return Header({name: tuple(tensor.shape) for name, tensor in tensors.items()}, container="pickle")


def read_pickled(file: Path) -> dict[str, Tensor]:
    """Return the tensors in a pickle, which stay on disk until used. No code in it is run. Raises ModelError."""
    import torch

    placeholders: list[Any] = [(type(name.rpartition(".")[2], (Placeholder,), {}), name) for name in INERT]
    try:
        content = load_pickle(file, placeholders, mapped=is_plain_archive(file))
    except (ValueError, OSError) as error:
        raise ModelError(str(error), str(file), "Use a .safetensors file of the model") from error
    table = content.get("state_dict", content) if isinstance(content, dict) else {}
    tensors = dict(named_tensors(table, "")) if isinstance(table, dict) else {}
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.untyped_storage().nbytes() < tensor.nbytes:
            raise ModelError(f"is damaged: {name[:80]} claims more numbers than the file has", str(file))
    return tensors


def stays_on_disk(file: Path) -> bool:
    """Return whether tensors of a file are read one at a time, when used. Raises ValueError or OSError."""
    return is_safetensors(file) or is_gguf(file) or is_plain_archive(file)


def is_plain_archive(file: Path) -> bool:
    """Return whether tensors of a pickle can stay on disk, unlike in the old serialisation.

    Raises ValueError or OSError.
    """
    try:
        if not zipfile.is_zipfile(file):
            return False
        with zipfile.ZipFile(file) as archive:
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except (zipfile.BadZipFile, RuntimeError) as error:
        raise ValueError(f"is damaged ({error})") from error
    if packed:
        raise ValueError("is a compressed archive, which no program writes")
    return True


def named_tensors(table: dict[Any, Any], start: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors in a table and in the tables directly within it."""
    from torch import Tensor

    for name, value in table.items():
        if isinstance(value, Tensor):
            yield f"{start}{name}", value
        elif isinstance(value, dict) and not start:
            yield from named_tensors(value, f"{name}.")


def read_tensors(file: Path, starts: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the tensors whose names have one of the prefixes `starts`. Raises ModelError if the file is damaged."""
    if not is_safetensors(file):
        return {name: tensor for name, tensor in read_pickled(file).items() if name.startswith(starts)}
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys() if name.startswith(starts)}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"is damaged ({error})", str(file)) from error


def hash_of_tensors(file: Path, starts: tuple[str, ...]) -> str:
    """Return the SHA-256 of the names and numbers of the tensors in a checkpoint with one of the prefixes `starts`.

    A GGUF file holds one part only, and is hashed whole. A file that has not changed is hashed once in a process.
    """
    return hash_of_files(file) if is_gguf(file) else _hash_of_tensors(file, starts, *state_of(file))


@lru_cache(HASHES)
def _hash_of_tensors(file: Path, starts: tuple[str, ...], size: int, changed: int) -> str:
    """Return the hash of some tensors in a file of this size and time of change."""
    del size, changed
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(read_tensors(file, starts).items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else str(tensor).encode())
    return digest.hexdigest()


def state_of(file: Path) -> tuple[int, int]:
    """Return the size of a file, and when it was changed in nanoseconds. Raises OSError."""
    state = file.stat()
    return state.st_size, state.st_mtime_ns


def hash_of_files(*files: Path) -> str:
    """Return the SHA-256 of the concatenated contents of files. Those that have not changed are hashed once."""
    return _hash_of_files(files, tuple(map(state_of, files)))


@lru_cache(HASHES)
def _hash_of_files(files: tuple[Path, ...], states: tuple[tuple[int, int], ...]) -> str:
    """Return the hash of files with these sizes and times of change."""
    del states
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
