"""`neonym train`, which is also `train_textual_inversion.py`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from neonym.cli.launcher import is_launched
from neonym.config.command_line import RunFlags, read_run, write_config
from neonym.config.flags import read_line
from neonym.errors import EXIT_NOT_LEARNED, ConfigError, Problem

if TYPE_CHECKING:
    from neonym.runs.events import Report

DESCRIPTION = "Learn one or more new words from pictures. Running the same command again goes on where it stopped."


def main(argv: list[str], prog: str) -> int:
    line = read_line(RunFlags, argv, prog, DESCRIPTION)
    flags, given = line.flags, read_run(line.flags, line.argv, line.problems)
    if flags.output_config:
        stop_for_errors(given.problems)
        for problem in given.problems:
            print(f"{problem.severity}: {problem}", file=sys.stderr)
        print(f"written: {write_config(given.run, Path(flags.config_file or 'config.toml'))}")
        return 0
    from neonym.preflight.preflight import preflight

    if given.debug_dataset:
        from neonym.cli.check import print_ids

        found = preflight(given.run, given.problems)
        print_ids(found)
        found.raise_errors()
        return 0
    plan = preflight(given.run, given.problems, hasty=True).complete_plan()  # before torch is read, which takes seconds
    from neonym.generation.judge import NOT_LEARNED
    from neonym.runs.events import Terminal
    from neonym.training.run import train_plan

    log = given.run.log
    file = Path(log.console_log_file) if log.console_log_file else None
    report = Terminal(level=log.console_log_level, log=file)
    with stopping(report):
        result = train_plan(plan, report)
    if result.signal:
        return 128 + result.signal
    if any(v.word == NOT_LEARNED for v in result.verdicts) and not is_launched():  # else the verdict would not be seen
        return EXIT_NOT_LEARNED
    return 0


def stop_for_errors(problems: list[Problem]) -> None:
    """Raises ConfigError with all errors, if there is one."""
    if any(problem.severity == "error" for problem in problems):
        raise ConfigError(problems)


@contextmanager
def stopping(report: Report) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the run after its step, state saved; a second one ends it at once."""
    from neonym.runs.events import Stopped

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        if report.stop_wanted:
            os._exit(128 + number)
        report.stop_wanted = number
        if report.stops_at_once:
            raise Stopped(number)
        print("\nstopping after this step; again: at once", file=sys.stderr)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
