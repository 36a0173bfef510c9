"""Collect Pillow's warnings for the caller, who knows which file they concern, instead of printing them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

Caught = list[Warning]
_lock, _before = threading.Lock(), ExitStack()
_listeners = list[int]()  # ids of threads


class ThreadState(threading.local):
    """The state of one thread."""

    caught: Caught | None = None  # the warnings of this thread's innermost listener


_thread = ThreadState()


@contextmanager
def pillow_warnings() -> Iterator[Caught]:
    """Yield a list that collects Pillow's warnings in this thread. Other warnings are shown as before."""
    outer, _thread.caught = _thread.caught, []
    with _lock:
        if not _listeners:
            start_listening()
        _listeners.append(threading.get_ident())
    try:
        yield _thread.caught
    finally:
        _thread.caught = outer
        with _lock:
            _listeners.pop()
            if not _listeners:
                _before.close()  # restores the filters from before the first listener


def start_listening() -> None:
    """Pass every warning of Pillow to the listener of its thread, even if it was shown before."""
    _before.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("always", module=r"PIL\b")
    show = warnings.showwarning

    def catch(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
        if _thread.caught is None or "PIL" not in filename:
            show(message, category, filename, *rest)
        else:
            _thread.caught.append(message if isinstance(message, Warning) else category(message))

    warnings.showwarning = catch
