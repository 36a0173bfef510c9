"""Read GGUF files: their header by our own few lines, their quantised numbers with the package `gguf`.

The format is documented by ggml. Sizes are stored with the fastest first, so they are reversed here. A tensor that
quantisation could not keep in its own shape has that shape in the metadata, as ComfyUI's converter writes it.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neonym.errors import ModelError
from neonym.extras import install_command, is_installed
from neonym.models.loading.header import Header, Shape

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # of the format; version 1 had other sizes, and no model of today uses it
ALIGNMENT = 32  # bytes, unless the metadata says otherwise
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."  # of the tensor whose name follows
MOST_AXES = 8
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
KEPT = 64  # elements of an array in the metadata that are kept: a vocabulary is skipped
# Number of a type -> (name, numbers in a block, bytes of a block)
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
}  # fmt: skip
PLAIN = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}


@dataclass(frozen=True)
class Stored:
    """A frozen record of where and how one tensor is stored."""

    shape: Shape
    kind: int  # its number in TYPES
    start: int  # first byte in the file
    size: int  # bytes


@dataclass(frozen=True)
class Content:
    """The header of a GGUF file."""

    tensors: dict[str, Stored]
    metadata: dict[str, Any]


class Reader:
    """A cursor in the bytes of a file. Everything it returns was really there: it raises ValueError at the end."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 0

    def bytes(self, count: int) -> bytes:
        """Return the next bytes."""
        if count > len(self.data) - self.at:
            raise ValueError("it ends within its header")
        self.at += count
        return self.data[self.at - count : self.at]

    def scalar(self, kind: str) -> Any:
        """Return the next number, in the notation of `struct`."""
        return struct.unpack(f"<{kind}", self.bytes(struct.calcsize(f"<{kind}")))[0]

    def text(self) -> str:
        """Return the next string."""
        return self.bytes(self.scalar("Q")).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        """Return the next value of the metadata. Of an array, the first elements."""
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            inner, count = self.scalar("I"), self.scalar("Q")
            if inner in SCALARS:
                size = struct.calcsize(f"<{SCALARS[inner]}")
                values = self.bytes(size * count)
                return struct.unpack(f"<{min(count, KEPT)}{SCALARS[inner]}", values[: size * min(count, KEPT)])
            return tuple(self.value(inner) for _ in range(count))[:KEPT]
        if kind not in SCALARS:
            raise ValueError(f"its metadata has a value of the unknown type {kind}")
        return self.scalar(SCALARS[kind])


def is_gguf(file: Path) -> bool:
    """Return whether a file is a GGUF file by its content, or by its name if it cannot be read."""
    try:
        with file.open("rb") as opened:
            return opened.read(4) == MAGIC or file.suffix.lower() == ".gguf"
    except OSError:
        return file.suffix.lower() == ".gguf"


def read_content(file: Path) -> Content:
    """Return the header of a GGUF file. Raises ModelError if it is damaged or of an unknown version."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return parsed(Reader(data))
    except (ValueError, OSError, struct.error, RecursionError, OverflowError, MemoryError) as error:
        raise ModelError(f"is damaged or is not a GGUF file ({error})", str(file), "Download it again") from error


def parsed(reader: Reader) -> Content:
    """Return the header that a reader stands at. Raises ValueError."""
    if reader.bytes(4) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    version = reader.scalar("I")
    if version not in VERSIONS:
        raise ValueError(f"its version is {version}; only 2 and 3 can be read")
    tensors, values = reader.scalar("Q"), reader.scalar("Q")
    metadata = {reader.text(): reader.value(reader.scalar("I")) for _ in range(values)}
    found = [tensor_info(reader) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"its alignment is {alignment}")
    begin = -(-reader.at // alignment) * alignment
    return Content(dict(placed(name, own, metadata, begin, len(reader.data)) for name, own in found), metadata)


def tensor_info(reader: Reader) -> tuple[str, tuple[Shape, int, int]]:
    """Return the name of the next tensor, and its shape, type and offset. Raises ValueError."""
    name, axes = reader.text(), reader.scalar("I")
    if axes > MOST_AXES:
        raise ValueError(f"{name[:80]} has {axes} axes")
    shape = tuple(reader.scalar("Q") for _ in range(axes))[::-1]
    return name, (shape, reader.scalar("I"), reader.scalar("Q"))


def placed(
    name: str, info: tuple[Shape, int, int], metadata: dict[str, Any], begin: int, end: int
) -> tuple[str, Stored]:
    """Return where a tensor is. Raises ValueError if it is of an unknown type or reaches past the end of the file."""
    shape, kind, offset = info
    if kind not in TYPES:
        raise ValueError(f"{name[:80]} is of the unknown type {kind}")
    _, numbers, size = TYPES[kind]
    count = prod(shape)
    if count % numbers or begin + offset + count // numbers * size > end:
        raise ValueError(f"{name[:80]} claims more numbers than the file has: it is incomplete")
    own = metadata.get(f"{ORIGINAL_SHAPE}{name}", shape)
    if not isinstance(own, tuple) or prod(own) != count:
        raise ValueError(f"the shape of {name[:80]} is {own}")
    return name, Stored(own, kind, begin + offset, count // numbers * size)


def read_gguf_header(file: Path) -> Header:
    """Return the names, shapes, types and texts in the header of a GGUF file. Raises ModelError."""
    content = read_content(file)
    return Header(
        {name: own.shape for name, own in content.tensors.items()},
        {key: value for key, value in content.metadata.items() if isinstance(value, str)},
        {name: TYPES[own.kind][0] for name, own in content.tensors.items()},
        "gguf",
    )


def numbers_of(file: Path, own: Stored) -> np.ndarray:
    """Return the numbers of a tensor in a GGUF file, dequantised.

    Raises ModelError if that needs the package `gguf` and it is not installed.
    """
    import numpy as np

    kind = TYPES[own.kind][0]
    raw = np.memmap(file, np.uint8, "r", own.start, (own.size,))
    return (np.array(raw.view(PLAIN[kind])) if kind in PLAIN else dequantised(raw, own, file)).reshape(own.shape)


def sample_of(file: Path, name: str, step: int) -> np.ndarray | None:
    """Return every `step`-th row [R,W] of a matrix, or None if reading it needs a package that is not installed."""
    import numpy as np

    own = read_content(file).tensors[name]
    kind, numbers, size = TYPES[own.kind]
    if kind not in PLAIN and not is_installed("gguf"):
        return None
    rows = np.array(np.memmap(file, np.uint8, "r", own.start, (own.shape[0], own.shape[1] // numbers * size))[::step])
    found = rows.view(PLAIN[kind]) if kind in PLAIN else dequantised(rows.ravel(), own, file)
    return found.reshape(len(rows), own.shape[1])


def dequantised(raw: np.ndarray, own: Stored, file: Path) -> np.ndarray:
    """Return quantised numbers as float32. Raises ModelError."""
    name, numbers, block = TYPES[own.kind]
    if not is_installed("gguf"):
        raise ModelError(
            f"has weights in the format {name}, which needs the package gguf",
            str(file),
            f"Install it: {install_command('gguf')}",
        )
    from gguf import GGMLQuantizationType, dequantize

    blocks = prod(own.shape[1:]) // numbers or 1  # in a row: the package takes a few rows at a time
    rows = raw.reshape(-1, blocks * block if len(raw) % (blocks * block) == 0 else block)
    try:
        return dequantize(rows, GGMLQuantizationType(own.kind))
    except NotImplementedError as error:
        what = f"has weights in the format {name}, which cannot be read"
        raise ModelError(what, str(file), "Use the file in Q8_0 or Q4_K") from error
