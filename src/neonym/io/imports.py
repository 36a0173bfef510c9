"""Imports of large libraries without the work of the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Leave the garbage collector off for the duration of a block that imports large libraries.

    It would look at their hundreds of thousands of objects again and again, which takes a second of five, and would
    find nothing to free.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
