"""Read pickled files as data: tensors and plain containers, never code."""

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
HARMLESS = (  # prefixes of harmless names in checkpoints
    "torch", "collections", "numpy", "_codecs", "pytorch_lightning", "__builtin__.set", "builtins.set",
)  # fmt: skip
UNBOUNDED = "bytearray"  # the only call that torch allows that can allocate any amount of memory
LARGEST = 64 << 20  # bytes of the largest pickle that is searched: tensors are stored beside it, not in it
BLOCK = 1 << 20  # bytes searched at a time
LARGEST_TUPLE = 1 << 16  # items in a tuple, including those of inner tuples
PICKLES = 8  # consecutive pickles in a file of the old serialisation


def load_pickle(file: Path, allowed: list[Any], mapped: bool = False) -> Any:
    """Return what a file holds, if it consists of tensors, plain containers and the `allowed` classes.

    With `mapped`, tensors stay on disk until they are used. Raises ValueError with the reason in one line.
    """
    import torch

    if may_allocate_any_memory(file):
        raise ValueError(
            f"calls {UNBOUNDED}, which can allocate any amount of memory, or is too long to be searched, and was not opened"
        )
    if has_endless_tuples(file):
        raise ValueError("has tuples nested so deeply that reading them would never end, and was not opened")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
            warnings.simplefilter("ignore")  # about newer protocols
            if mapped:
                return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            with file.open("rb") as opened:  # given a path, torch would consider its extension
                return torch.load(opened, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way; none of its code was run
        why = reason(str(error))
        code = None if why.startswith("wants") else first_unknown_call(file)
        raise ValueError(refusal(code) if code else why) from error


def reason(text: str) -> str:
    """Return the reason why torch refuses a pickle, in one sentence."""
    text = text.partition("WeightsUnpickler error:")[2] or text
    named = FORBIDDEN.search(text)
    if named and ("unsupported" in text.lower() or "blocked" in text):
        return refusal(named[1])
    line = next((line.strip() for line in text.splitlines() if line.strip()), "it ends too early")
    return f"is damaged, or holds more than tensors ({line.partition('. ')[0][:120]})"


def first_line(error: BaseException) -> str:
    """Return the first line of an error, or the name of the code that a pickle would run."""
    messages = [str(error)]
    while (error := error.__cause__ or error.__context__) is not None:  # pyright: ignore[reportAssignmentType]
        messages.append(str(error))
    named = reason("\n".join(messages))
    return named if named.startswith("wants to run code") else messages[0].strip().split("\n", 1)[0][:200]


def refusal(named: str) -> str:
    """Return the message about a pickle that would run code."""
    return f"wants to run code ({named}) and was not opened"


def first_unknown_call(file: Path) -> str | None:
    """Return the first unknown function or class in a pickle, of any protocol, or None. Nothing is run."""
    try:
        with file.open("rb") as opened:
            return next((name for name in called(pickle_of(opened)) if not name.startswith(HARMLESS)), None)
    except Exception:  # it is damaged as well
        return None


def may_allocate_any_memory(file: Path) -> bool:
    """Return whether a pickle in the file could allocate any amount of memory, or is too long to be searched.

    Return False for a damaged file, which torch refuses.
    """
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                pickles = [entry for entry in archive.infolist() if entry.filename.endswith(".pkl")]
                return any(entry.file_size > LARGEST or UNBOUNDED.encode() in archive.read(entry) for entry in pickles)
        with file.open("rb") as opened:
            return any(UNBOUNDED.encode() in block for block in overlapping(opened))
    except Exception:  # it is damaged
        return False


def has_endless_tuples(file: Path) -> bool:
    """Return whether a pickle in the file has tuples nested so deeply that hashing one would never end."""
    try:
        with file.open("rb") as opened:
            return any(size > LARGEST_TUPLE for size in tuple_sizes(pickle_of(opened)))
    except Exception:  # it is damaged
        return False


def tuple_sizes(stream: IO[bytes]) -> Iterator[int]:
    """Yield the size of each object in a stream's first pickles: 1, or for a tuple 1 plus the sizes of its items."""
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
    """Yield a stream in blocks, each of which starts with the end of the one before."""
    last = b""
    while block := stream.read(BLOCK):
        yield last + block
        last = block[-len(UNBOUNDED) :]


def pickle_of(opened: IO[bytes]) -> IO[bytes]:
    """Return the pickle in an archive, or the file itself if it is not an archive."""
    if not zipfile.is_zipfile(opened):
        opened.seek(0)
        return opened
    with zipfile.ZipFile(opened) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        with archive.open(name) as inner:
            return BytesIO(inner.read(LARGEST))


def called(stream: IO[bytes]) -> Iterator[str]:
    """Yield the name of every class and function in the first pickles of a stream."""
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
