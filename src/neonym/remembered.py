"""What takes seconds to find out and is the same every time: kept in the user's cache folder.

Nothing is lost with it: it is found out anew, and left out where it cannot be written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from neonym.files import whole_file

Found = TypeVar("Found")


def default_folder() -> Path:
    """`neonym` in the user's cache folder (XDG_CACHE_HOME, else ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neonym"


def remembered(kind: str, key: object, find_out: Callable[[], Found]) -> Found:
    """What `find_out` says, a JSON value; if it was asked for the same `key` (another one) before, what it said then."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    file = default_folder() / kind / f"{digest[:32]}.json"
    with suppress(OSError, ValueError):
        return json.loads(file.read_text("utf-8"))
    found = find_out()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as part:
            part.write_text(json.dumps(found), "utf-8")
    return found


def versions(*libraries: str) -> list[str]:
    """Part of a key: another version may find out something else."""
    return [f"{library} {version(library)}" for library in libraries]
