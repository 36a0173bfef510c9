"""What takes seconds to find out and is the same every time: kept in the user's cache folder.

Nothing is lost with it: it is found out anew, and left out where it cannot be written. It is believed only if it is, byte for
byte, what was written.
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
SEAL = b'{"sha256": "%s", '  # how a kept table begins: the hash of its file's name and all that stands behind


def cache_folder() -> Path:
    """Return `neonym` in the user's cache folder (XDG_CACHE_HOME, else ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neonym"


def memoized(kind: str, key: object, find_out: Callable[[], Found]) -> Found:
    """Return what `find_out` says, a JSON value; if it was asked for the same `key` (another one) before, what it said then."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    file = cache_folder() / kind / f"{digest[:32]}.json"
    kept = read_memo(file)
    if "found" in kept:
        return kept["found"]
    found = find_out()
    write_memo(file, {"found": found})
    return found


def read_memo(file: Path) -> dict[str, Any]:
    """Return the table that `keep` wrote; an empty one if it is not there, or not as it was written."""
    with suppress(OSError):
        content = file.read_bytes()
        if content.startswith(seal(file, content[len(seal(file, b"")) :])):
            return json.loads(content)
    return {}


def write_memo(file: Path, table: dict[str, Any]) -> None:
    """Write a table, complete or absent, if it can be written."""
    content = json.dumps(table).encode()[1:]  # without its first brace
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(file.parent)
        with atomic_write(file) as part:
            part.write_bytes(seal(file, content) + content)


def seal(file: Path, content: bytes) -> bytes:
    """Return how `file` begins if this content follows."""
    return SEAL % hashlib.sha256(file.name.encode() + content).hexdigest().encode()


def versions(*libraries: str) -> list[str]:
    """Return a part of a key: another version may find out something else."""
    return [f"{library} {version(library)}" for library in libraries]
