"""Cache the facts about a folder's images, so that later runs do not have to open them again.

An entry is valid while the size and the times of its file are unchanged, and the index is valid if it is what was
written. Without an index, or where it cannot be written, the images are inspected again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from neonym.data.images import ImageFacts, inspect_image
from neonym.data.remarks import Remark
from neonym.errors import DataError
from neonym.io.memo import cache_folder, read_memo, write_memo

LAYOUT = 3  # version of the entries
TOO_YOUNG = 2e9  # nanoseconds: a younger file can change again without a change of its times
Stamp = list[int]


def inspect_images(
    paths: Iterable[Path], progress: Callable[[int], object] | None = None
) -> dict[Path, ImageFacts | DataError]:
    """Return the facts about each image, or its error. Facts about unchanged files come from the index.

    `progress` is called with the number of images that are done.
    """
    by_folder: dict[Path, list[Path]] = {}
    for path in paths:
        by_folder.setdefault(path.parent, []).append(path)
    found: dict[Path, ImageFacts | DataError] = {}
    for folder, files in by_folder.items():
        for path, facts in inspect_folder(folder, files):
            found[path] = facts
            if progress is not None:
                progress(len(found))
    return found


def inspect_folder(folder: Path, files: list[Path]) -> Iterator[tuple[Path, ImageFacts | DataError]]:
    """Yield the files of one folder with their facts. Files that are not in the index are opened in parallel."""
    index = cache_folder() / "index" / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]}.json"
    known, stamps = read_index(index), {path: stamp_of(path) for path in files}
    new: list[Path] = []
    for path in files:
        entry = known.get(path.name)
        if entry is not None and entry[0] == stamps[path]:
            yield path, ImageFacts((entry[1], entry[2]), entry[3], tuple(Remark(*remark) for remark in entry[4]))
        else:
            new.append(path)
    if not new:
        return
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for path, facts in zip(new, pool.map(facts_or_error, new, chunksize=32), strict=True):
            yield path, facts
            stamp = stamps[path]
            if isinstance(facts, ImageFacts) and stamp and time.time_ns() - max(stamp[1:]) > TOO_YOUNG:
                known[path.name] = [stamp, *facts.size, facts.content, facts.remarks]
    write_memo(index, {"layout": LAYOUT, "files": known})


def facts_or_error(path: Path) -> ImageFacts | DataError:
    """Return the facts about an image, or the error that reading it raises."""
    try:
        return inspect_image(path)
    except DataError as error:
        return error


def stamp_of(path: Path) -> Stamp:
    """Return the size and times of a file, or an empty list if there is none."""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return []
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def read_index(file: Path) -> dict[str, list]:
    """Return the entries of the index by file name, or an empty table if there is no valid index."""
    table = read_memo(file)
    return table["files"] if table.get("layout") == LAYOUT else {}
