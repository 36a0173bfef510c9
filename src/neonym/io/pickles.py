"""Pickled files as data: tensors and plain containers, never code."""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Any

FORBIDDEN = re.compile(r"(?:GLOBAL|class|function) ([\w.]+)")
HARMLESS = (  # how names in checkpoints begin
    "torch", "collections", "numpy", "_codecs", "pytorch_lightning", "__builtin__.set", "builtins.set",
)  # fmt: skip
ROOM = "bytearray"  # the one call that torch allows and that takes as much memory as it is told to
LARGEST = 64 << 20  # bytes of a pickle that is looked through: tensors lie beside it
BLOCK = 1 << 20  # bytes that are looked through at once
LARGEST_TUPLE = 1 << 16  # things in a tuple, and in the tuples in it
PICKLES = 8  # in a row, of the old serialisation


def load_pickle(file: Path, allowed: list[Any], mapped: bool = False) -> Any:
    """What a file holds, if it is nothing but tensors, plain containers and the `allowed` classes.

    `mapped`: tensors stay on the disk until they are used. Raises ValueError with the reason in one line.
    """
    import torch

    if names_room(file):
        raise ValueError(
            f"calls {ROOM}, which takes memory of any size, or is too long to be looked through, and was not opened"
        )
    if unfolds(file):
        raise ValueError("holds one thing many times within itself, which takes time without end, and was not opened")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
            warnings.simplefilter("ignore")  # of newer protocols
            if mapped:
                return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            with file.open("rb") as opened:  # torch goes by the ending of a name
                return torch.load(opened, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way; nothing of it was run
        said = reason(str(error))
        named = None if said.startswith("wants") else foreign_call(file)
        raise ValueError(refusal(named) if named else said) from error


def reason(text: str) -> str:
    """The first sentence of torch's several."""
    text = text.partition("WeightsUnpickler error:")[2] or text
    named = FORBIDDEN.search(text)
    if named and ("unsupported" in text.lower() or "blocked" in text):
        return refusal(named[1])
    line = next((line.strip() for line in text.splitlines() if line.strip()), "it ends too early")
    return f"is damaged, or holds more than tensors ({line.partition('. ')[0][:120]})"


def first_line(error: BaseException) -> str:
    """What an error says, without its paragraphs; code that a pickle wants to run is named."""
    said = [str(error)]
    while (error := error.__cause__ or error.__context__) is not None:  # pyright: ignore[reportAssignmentType]
        said.append(str(error))
    named = reason("\n".join(said))
    return named if named.startswith("wants to run code") else said[0].strip().split("\n", 1)[0][:200]


def refusal(named: str) -> str:
    return f"wants to run code ({named}) and was not opened"


def foreign_call(file: Path) -> str | None:
    """What a pickle that torch does not read at all (of a newer protocol, say) would call first; nothing is run."""
    try:
        with file.open("rb") as opened:
            return next((name for name in called(pickle_of(opened)) if not name.startswith(HARMLESS)), None)
    except Exception:  # it is damaged as well
        return None


def names_room(file: Path) -> bool:
    """Whether a pickle in the file could call for memory of any size, or is too long to tell. A damaged one is for torch to refuse."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                pickles = [entry for entry in archive.infolist() if entry.filename.endswith(".pkl")]
                return any(entry.file_size > LARGEST or ROOM.encode() in archive.read(entry) for entry in pickles)
        with file.open("rb") as opened:
            return any(ROOM.encode() in block for block in overlapping(opened))
    except Exception:  # it is damaged
        return False


def unfolds(file: Path) -> bool:
    """Whether a pickle in the file has tuples of tuples so deep that looking at all of one (its hash) never ends."""
    try:
        with file.open("rb") as opened:
            return any(size > LARGEST_TUPLE for size in tuple_sizes(pickle_of(opened)))
    except Exception:  # it is damaged
        return False


def tuple_sizes(stream: IO[bytes]) -> Iterator[int]:
    """How many things each tuple of a stream's first pickles holds, those in its tuples counted each time."""
    for _ in range(PICKLES):
        stack: list[int] = []
        marks: list[int] = []
        kept: dict[int, int] = {}  # the pickle's memo
        for code, value, _ in pickletools.genops(stream):
            before, name = code.stack_before, code.name
            if name == "MARK":
                marks.append(len(stack))
            elif name == "MEMOIZE" or "PUT" in name:
                kept[len(kept) if name == "MEMOIZE" else int(value)] = stack[-1]  # pyright: ignore[reportArgumentType]
            elif "GET" in name:
                stack.append(kept[int(value)])  # pyright: ignore[reportArgumentType]
            elif name == "DUP":
                stack.append(stack[-1])
            else:
                first = marks.pop() if pickletools.markobject in before else len(stack) - len(before)
                first -= before.index(pickletools.markobject) if pickletools.markobject in before else 0
                taken, stack[first:] = stack[first:], []
                stack += [1 + sum(taken) if "TUPLE" in name else 1] * len(code.stack_after)
                yield stack[-1] if stack else 1


def overlapping(stream: IO[bytes]) -> Iterator[bytes]:
    """All of a stream in blocks that each begin with the end of the one before."""
    last = b""
    while block := stream.read(BLOCK):
        yield last + block
        last = block[-len(ROOM) :]


def pickle_of(opened: IO[bytes]) -> IO[bytes]:
    """The pickle within an archive, or the file itself."""
    if not zipfile.is_zipfile(opened):
        opened.seek(0)
        return opened
    with zipfile.ZipFile(opened) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        with archive.open(name) as inner:
            return BytesIO(inner.read(LARGEST))


def called(stream: IO[bytes]) -> Iterator[str]:
    """Every class and function that the pickles of a stream name."""
    for _ in range(PICKLES):
        texts: list[str] = []
        for code, value, place in pickletools.genops(stream):
            if (place or 0) > LARGEST:
                return
            if code.name == "GLOBAL":
                yield str(value).replace(" ", ".")
            elif code.name == "STACK_GLOBAL" and len(texts) > 1:
                yield ".".join(texts[-2:])
            elif isinstance(value, str):
                texts = [*texts[-1:], value]
