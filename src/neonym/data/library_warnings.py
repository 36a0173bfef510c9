"""Pillow's warnings go to the caller, who knows which file they are about, instead of the terminal."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

Heard = list[Warning]
_lock, _before = threading.Lock(), ExitStack()
_listeners = list[int]()  # threads


class Here(threading.local):
    """The state of one thread."""

    heard: Heard | None = None  # the warnings of this thread's innermost listener


_here = Here()


@contextmanager
def pillow_warnings() -> Iterator[Heard]:
    """Collect Pillow's warnings in this thread; all others go where they went before."""
    outer, _here.heard = _here.heard, []
    with _lock:
        if not _listeners:
            start_listening()
        _listeners.append(threading.get_ident())
    try:
        yield _here.heard
    finally:
        _here.heard = outer
        with _lock:
            _listeners.pop()
            if not _listeners:
                _before.close()  # filters are as they were before the first listener


def start_listening() -> None:
    """Bring every warning of Pillow to the listener of its thread, however often it was shown before."""
    _before.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("always", module=r"PIL\b")
    show = warnings.showwarning

    def hear(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
        if _here.heard is None or "PIL" not in filename:
            show(message, category, filename, *rest)
        else:
            _here.heard.append(message if isinstance(message, Warning) else category(message))

    warnings.showwarning = hear
