"""Define the programs that a user can start, and handle Ctrl-C and SIGTERM from the first moment on.

At the top, only modules that Python has already loaded are imported, because any other import could be interrupted.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # type checkers take it as true; importing it from `typing` takes longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

stopped_by: list[int] = []  # signals that have asked the program to end


def neonym() -> None:
    """Run `neonym COMMAND ...`."""

    def command() -> int:
        from neonym.cli.main import main

        return main(sys.argv[1:])

    start(command)


def train_textual_inversion() -> None:
    """Run `neonym train` under sd-scripts' name."""
    start_as("train", "train_textual_inversion.py")


def sdxl_train_textual_inversion() -> None:
    """Run `neonym train` for an SDXL model, under sd-scripts' name."""
    start_as("train", "sdxl_train_textual_inversion.py", "--sdxl")


def gen_img() -> None:
    """Run `neonym generate` under sd-scripts' name."""
    start_as("generate", "gen_img.py")


def gen_img_diffusers() -> None:
    """Run `neonym generate` under sd-scripts' other name."""
    start_as("generate", "gen_img_diffusers.py")


def start_as(name: str, prog: str, *implied: str) -> None:
    """Run a command under another name, with the flags that the name implies."""

    def command() -> int:
        from neonym.cli.main import run_command

        return run_command(name, [*sys.argv[1:], *implied], prog)

    start(command)


def start(command: Callable[[], int]) -> None:
    """Run a command and exit with its exit code, or quietly with 128 + the number of the signal that stopped it."""
    for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) == default:  # a signal that is ignored, as under nohup, stays ignored
            signal.signal(number, stop)
    try:
        code = command()
    except BaseException:  # an interrupted library may raise anything
        if not stopped_by:
            raise
        code = 0
    stopped_by.append(0)  # from here on a signal ends the program at once
    sys.exit(128 + stopped_by[0] if stopped_by[0] else code)


def stop(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, so that half-written files are removed.

    During an import, or on a second signal, exit at once: libraries turn an exception during an import into errors of
    their own, or swallow it.
    """
    again = bool(stopped_by)
    stopped_by.append(number)
    if again or is_importing(frame):
        os._exit(128 + number)
    raise KeyboardInterrupt


def is_importing(frame: FrameType | None) -> bool:
    """Return whether the program is importing a module in this stack frame."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
