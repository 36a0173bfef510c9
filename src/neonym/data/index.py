"""What was found out about the files of a folder, kept so that the next start need not open them again.

An entry holds as long as the file's size and times are the same, and the index as long as it is what was written. It says
only what can be found out anew: nothing is lost with it, and it is left out where it cannot be written.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from neonym.data.images import Facts, inspect
from neonym.data.remarks import Remark
from neonym.errors import DataError
from neonym.io.memo import cache_folder, read_memo, write_memo

LAYOUT = 3  # changes with the meaning of an entry
TOO_YOUNG = 2e9  # nanoseconds: a file just written can change again without changing its times
Stamp = list[int]


def look_at(paths: Iterable[Path], progress: Callable[[int], object] | None = None) -> dict[Path, Facts | DataError]:
    """Every picture's facts, or what is wrong with it. Those of unchanged files come from the index."""
    by_folder: dict[Path, list[Path]] = {}
    for path in paths:
        by_folder.setdefault(path.parent, []).append(path)
    found: dict[Path, Facts | DataError] = {}
    for folder, files in by_folder.items():
        for path, facts in look_at_folder(folder, files):
            found[path] = facts
            if progress is not None:
                progress(len(found))
    return found


def look_at_folder(folder: Path, files: list[Path]) -> Iterator[tuple[Path, Facts | DataError]]:
    """Files of one folder, in parallel where they have to be opened."""
    index = cache_folder() / "index" / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]}.json"
    known, stamps = read_index(index), {path: stamp_of(path) for path in files}
    new: list[Path] = []
    for path in files:
        entry = known.get(path.name)
        if entry is not None and entry[0] == stamps[path]:
            yield path, Facts((entry[1], entry[2]), entry[3], tuple(Remark(*remark) for remark in entry[4]))
        else:
            new.append(path)
    if not new:
        return
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for path, facts in zip(new, pool.map(facts_or_error, new, chunksize=32), strict=True):
            yield path, facts
            stamp = stamps[path]
            if isinstance(facts, Facts) and stamp and time.time_ns() - max(stamp[1:]) > TOO_YOUNG:
                known[path.name] = [stamp, *facts.size, facts.content, facts.remarks]
    write_memo(index, {"layout": LAYOUT, "files": known})


def facts_or_error(path: Path) -> Facts | DataError:
    try:
        return inspect(path)
    except DataError as error:
        return error


def stamp_of(path: Path) -> Stamp:
    """Size and times of a file; nothing if it is not there."""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return []
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def read_index(file: Path) -> dict[str, list]:
    """Return entries by file name; none if there is no sound index."""
    table = read_memo(file)
    return table["files"] if table.get("layout") == LAYOUT else {}
