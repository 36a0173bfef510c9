"""Reading ahead: results in order, a few at a time, with errors where they belong."""

import threading
import time
from contextlib import closing

import pytest

from neonym.io.ahead import AHEAD, ahead


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_results_come_in_the_order_of_the_items(threads):
    def slower_at_first(n: int) -> int:
        time.sleep(0.02 / (1 + n))
        return n * n

    assert [*ahead(slower_at_first, range(10), threads)] == [n * n for n in range(10)]
    assert [*ahead(slower_at_first, [], threads)] == []


def test_threads_work_while_the_caller_does_but_not_far_ahead():
    begun: list[int] = []
    with closing(ahead(begun.append, range(100), 2)) as found:
        next(found)
        deadline = time.monotonic() + 10
        while len(begun) < 2 * AHEAD + 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(begun) == 2 * AHEAD + 1
    assert len(begun) == 2 * AHEAD + 1  # nothing more begins
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_is_raised_in_the_place_of_its_item(threads):
    def reciprocal(n: int) -> float:
        return 1 / n

    found = ahead(reciprocal, [2, 1, 0, 4], threads)
    assert [next(found), next(found)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(found)
