"""Read ahead: threads compute what is needed next while the caller works on what is there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")
AHEAD = 2  # results for each thread that wait for the caller


def ahead(function: Callable[[Item], Found], items: Iterable[Item], threads: int) -> Generator[Found, None, None]:
    """Yield what a function returns for each item, in order, and raise its errors there.

    `threads` threads call it for the items to come; with 0, it is called when its result is needed.
    """
    if threads == 0:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque[Future[Found]]()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for own in waiting:
                own.cancel()
