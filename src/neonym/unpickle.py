"""Pickled files as data: tensors and plain containers, never code."""

import re
from pathlib import Path
from typing import Any

import torch

FORBIDDEN = re.compile(r"(?:GLOBAL|class|function) ([\w.]+)")


def unpickle(file: Path, allowed: list[Any], mapped: bool = False) -> Any:
    """What a file holds, if it is nothing but tensors, plain containers and the `allowed` classes.

    `mapped`: tensors stay on the disk until they are used. Raises ValueError with the reason in one line.
    """
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged pickle can fail in any way; nothing of it was run
        raise ValueError(reason(str(error))) from error


def reason(text: str) -> str:
    """The first sentence of torch's several."""
    text = text.partition("WeightsUnpickler error:")[2] or text
    named = FORBIDDEN.search(text)
    if named and ("unsupported" in text.lower() or "blocked" in text):
        return f"wants to run code ({named[1]}) and was not opened"
    line = next((line.strip() for line in text.splitlines() if line.strip()), "it ends too early")
    return f"is damaged, or holds more than tensors ({line.partition('. ')[0][:120]})"
