"""Report a disk that refuses something, in one paragraph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neonym import UserError


@contextmanager
def reporting_disk_errors(
    path: Path | str, what: str = "cannot be written", fix: str = "Check its permissions and the free space"
) -> Iterator[None]:
    """Turn an OSError in the block into the UserError that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what} ({error.strerror})", str(path), fix) from error
