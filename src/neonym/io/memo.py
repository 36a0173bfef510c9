"""Keep results that take seconds to compute and are always the same in the user's cache folder.

Nothing is lost with a memo: its result is computed again, and no memo is kept where it cannot be written. A memo is
used only if it is, byte for byte, what was written.
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

Found = TypeVar("Found")
SEAL = b'{"sha256": "%s", '  # how a memo begins: with the hash of its file's name and of all that follows


def cache_folder() -> Path:
    """Return the folder `neonym` in the user's cache folder (XDG_CACHE_HOME, else ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neonym"


def memoized(kind: str, key: object, find_out: Callable[[], Found]) -> Found:
    """Return the JSON value that `find_out` returns, or its memo if it was computed for the same `key` before."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    file = cache_folder() / kind / f"{digest[:32]}.json"
    kept = read_memo(file)
    if "found" in kept:
        return kept["found"]
    found = find_out()
    write_memo(file, {"found": found})
    return found


def read_memo(file: Path) -> dict[str, Any]:
    """Return the table that `write_memo` wrote, or an empty one if the file is missing or was changed."""
    with suppress(OSError):
        content = file.read_bytes()
        if content.startswith(seal(file, content[len(seal(file, b"")) :])):
            return json.loads(content)
    return {}


def write_memo(file: Path, table: dict[str, Any]) -> None:
    """Write a table to a file that is complete or absent. Do nothing if it cannot be written."""
    content = json.dumps(table).encode()[1:]  # without its first brace
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(file.parent)
        with atomic_write(file) as part:
            part.write_bytes(seal(file, content) + content)


def seal(file: Path, content: bytes) -> bytes:
    """Return the bytes with which `file` begins if this content follows."""
    return SEAL % hashlib.sha256(file.name.encode() + content).hexdigest().encode()


def versions(*libraries: str) -> list[str]:
    """Return the versions of libraries as a part of a key, because another version may give another result."""
    return [f"{library} {version(library)}" for library in libraries]
