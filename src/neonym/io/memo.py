"""Cache results that take seconds to compute, as memos in the user's cache folder.

A missing memo is computed again, and a folder that cannot be written to is no error. A memo is used only if it is, byte
for byte, what was written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from neonym.io.atomic import atomic_write, clear_leftovers

Value = TypeVar("Value")
_unwritten: dict[Path, Any] = {}  # results for which there is no file, in this process
SEAL = b'{"sha256": "%s", '  # the start of a memo: the hash of its file name and of everything after it


def cache_folder() -> Path:
    """Return the folder `neonym` in the user's cache folder (XDG_CACHE_HOME, else ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neonym"


def memoized(kind: str, key: object, compute: Callable[[], Value]) -> Value:
    """Return the JSON value that `compute` returns, or its memo if it was computed for the same `key` before."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    file = cache_folder() / kind / f"{digest[:32]}.json"
    kept = read_memo(file)
    if "found" in kept:
        return kept["found"]
    found = _unwritten.pop(file) if file in _unwritten else compute()
    if not write_memo(file, {"found": found}):
        _unwritten[file] = found
    return found


def read_memo(file: Path) -> dict[str, Any]:
    """Return the table that `write_memo` wrote, or an empty table if the file is missing or was changed."""
    with suppress(OSError):
        content = file.read_bytes()
        if content.startswith(seal(file, content[len(seal(file, b"")) :])):
            return json.loads(content)
    return {}


def write_memo(file: Path, table: dict[str, Any]) -> bool:
    """Write a table to a file atomically, and return whether it could be written."""
    content = json.dumps(table).encode()[1:]  # without its first brace
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(file.parent)
        with atomic_write(file) as part:
            part.write_bytes(seal(file, content) + content)
        return True
    return False


def seal(file: Path, content: bytes) -> bytes:
    """Return the first bytes of `file` if this content follows."""
    return SEAL % hashlib.sha256(file.name.encode() + content).hexdigest().encode()


def versions(*libraries: str) -> list[str]:
    """Return the versions of libraries, as part of a key: another version may give another result."""
    return [f"{library} {version(library)}" for library in libraries]
