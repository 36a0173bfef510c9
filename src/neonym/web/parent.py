"""Let a process end when the server that started it does, even if that is killed.

As a program, `python -m neonym.web.parent WORD...` runs `neonym WORD...` so: the server holds the other end of its input.
"""

from __future__ import annotations

import os
import runpy
from collections.abc import Callable
from multiprocessing import parent_process
from threading import Thread


def end_with_parent() -> None:
    """Let this process end when that of the server does, which started it by `multiprocessing`."""
    parent = parent_process()
    if parent is not None:
        end_after(parent.join)


def end_after(wait: Callable[[], object]) -> None:
    """End this process, whatever it is doing, as soon as a function returns."""

    def watch() -> None:
        wait()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def end_of_input() -> None:
    """Wait until nobody can write to the input of this process any more."""
    while os.read(0, 1024):  # not by `sys.stdin`, whose lock Python needs when it ends
        pass


if __name__ == "__main__":
    end_after(end_of_input)
    runpy.run_module("neonym", run_name="__main__", alter_sys=True)
