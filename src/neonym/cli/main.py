"""Run `neonym COMMAND ...`: find the command, print its errors and return its exit code.

The module of a command is imported when the command runs, and `--help` never imports torch.
"""

from __future__ import annotations

import os
import sys
import time
from importlib import import_module
from io import TextIOWrapper

from neonym._version import __version__
from neonym.cli.launcher import is_first, is_launched
from neonym.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, ConfigError, NeonymError, RefuseRun, nearest

SECONDS_TO_PRINT = 5.0  # for the first of several processes
COMMANDS = {
    "train": "learn a new word from images",
    "fleet": "learn hundreds of words from one plan, on all devices or on a Ray cluster",
    "check": "find mistakes in a training run before it starts, in seconds",
    "generate": "generate images with learned words",
    "verify": "test whether an embedding file has an effect, with images",
    "inspect": "show what an embedding file holds",
    "recipe": "print the settings that a word was learned with",
    "convert": "write an embedding file in another layout",
    "caption": "make, join, clean and count captions; find images that look the same",
    "web": "open a page in the browser that does all of this without commands",
    "demo": "learn a subject and a style with the built-in model",
    "doctor": "show what is installed and what is missing, for bug reports",
}


def usage() -> str:
    """Return the help text of the program itself."""
    lines = ["usage: neonym COMMAND [flags]", "", "commands:"]
    lines += [f"  {name:10} {text}" for name, text in COMMANDS.items()]
    lines += ["", "`neonym COMMAND --help` lists the flags of a command; `neonym --version` shows the version."]
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Run the command that the arguments name, and return its exit code."""
    name = argv[0] if argv else "--help"
    if name in ("--help", "-h", "help"):
        print(usage())
        return 0 if argv else 2
    if name in ("--version", "-V"):
        print(f"neonym {__version__}")
        return 0
    if name not in COMMANDS:
        meant = nearest(name, tuple(COMMANDS))
        print(f"neonym: unknown command `{name}`. {meant}\n\n{usage()}", file=sys.stderr)
        return 2
    return run_command(name, argv[1:], f"neonym {name}")


def run_command(name: str, argv: list[str], prog: str) -> int:
    """Run a command and return its exit code. Errors that Neonym raises are printed without a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for stream in (sys.stdout, sys.stderr):  # file names need not be Unicode
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return import_module(f"neonym.cli.{name}").main(argv, prog)
    except NeonymError as error:
        print_error(error, prog)
        return error.exit_code
    except ModuleNotFoundError as error:
        if (error.name or "neonym").partition(".")[0] == "neonym":  # a bug in Neonym
            raise
        print(
            f"{prog}: error: the package `{error.name}` is missing. `neonym doctor` lists everything that is missing.",
            file=sys.stderr,
        )
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # nothing reads the output any more; avoid a traceback at exit as well
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def print_error(error: NeonymError, prog: str) -> None:
    """Print an error. Of several processes that find the same mistake, only the first prints it.

    The others end a little later: a launcher ends the first one, too, as soon as one of them has ended.
    """
    if isinstance(error, (ConfigError, RefuseRun)) and not is_first():
        time.sleep(SECONDS_TO_PRINT)
        return
    print(f"{prog}: error:\n{error}" if "\n" in str(error) else f"{prog}: error: {error}", file=sys.stderr)
    if is_launched():
        print(
            f"(The traceback below is the launcher's and only says that the exit code is {error.exit_code}.)",
            file=sys.stderr,
        )
