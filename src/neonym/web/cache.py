"""Keep files that can be made again, as many as a limit allows."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from neonym.io.atomic import atomic_write

LEFT = 0.9  # of the limit, once it was reached and the oldest files have gone


class Cache:
    """Files with one ending in a folder, of at most `most` bytes together: the oldest ones go first.

    Any thread may read it; only one writes.
    """

    def __init__(self, folder: Path, ending: str, most: int):
        self.folder, self.ending, self.most = folder, ending, most
        self.size: int | None = None  # bytes; None before the first file is written

    def file(self, key: str) -> Path:
        """Return the file of a key, which need not exist."""
        return self.folder / f"{key}{self.ending}"

    def read(self, key: str) -> bytes | None:
        """Return what is kept under a key; None if there is nothing."""
        try:
            return self.file(key).read_bytes()
        except OSError:
            return None

    def write(self, key: str, data: bytes) -> None:
        """Keep something under a key; nothing if the disk refuses."""
        with suppress(OSError):
            with atomic_write(self.file(key)) as part:
                part.write_bytes(data)
            if self.size is None or self.size + len(data) > self.most:
                self.size = self.drop_oldest()
            else:
                self.size += len(data)

    def drop_oldest(self) -> int:
        """Delete the oldest files if there is more than the limit, and return the bytes that are left."""
        found = [(file.stat(), file) for file in self.folder.glob(f"*{self.ending}")]
        left = sum(stat.st_size for stat, _ in found)
        if left <= self.most:
            return left
        for stat, file in sorted(found, key=lambda pair: pair[0].st_mtime_ns):
            if left <= LEFT * self.most:
                break
            file.unlink(missing_ok=True)
            left -= stat.st_size
        return left
