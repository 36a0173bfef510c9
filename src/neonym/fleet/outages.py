"""Outages of an object store: what failed is tried again after growing pauses."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable

PAUSES = (1, 2, 4, 8, 16, 30)  # seconds
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # not EIO, which stores also answer


class Outages:
    """The pauses that are left for the words of one shard, which share them: they have the same store."""

    def __init__(self) -> None:
        self.pauses = iter(PAUSES)

    def bridge(self, action: Callable[[], object]) -> None:
        """Copy from or to the store, and try again after each pause that is left. Raises OSError."""
        while True:
            try:
                action()
                return
            except OSError as error:
                pause = None if is_of_the_machine(error) else next(self.pauses, None)
                if pause is None:
                    raise
            time.sleep(pause)


def is_of_the_machine(error: OSError) -> bool:
    """Return whether an error does not pass with time, but another machine may not have it: its disk, or its keys."""
    return error.errno in OF_THE_DISK or isinstance(error, PermissionError)
