"""Run `neonym train`, which is also `train_textual_inversion.py`."""

from __future__ import annotations

from pathlib import Path

from neonym.cli.launcher import is_first, is_launched
from neonym.cli.terminal import print_problems
from neonym.config.command_line import RunFlags, read_run, write_config
from neonym.config.flags import read_command_line
from neonym.errors import EXIT_NOT_LEARNED, EXIT_USER_ERROR, ConfigError, Problem
from neonym.io.imports import uncollected

DESCRIPTION = "Learn one or more new words from images. To resume a run that was stopped, run the same command again."


def main(argv: list[str], prog: str) -> int:
    """Run the command. Return its exit code: 128 + a signal that stopped it, 3 if a word was not learned."""
    line = read_command_line(RunFlags, argv, prog, DESCRIPTION)
    flags, given = line.flags, read_run(line.flags, line.argv, line.problems)
    if flags.output_config:
        stop_for_errors(given.problems)
        print_problems(given.problems)
        print(f"written: {write_config(given.run, Path(flags.config_file or 'config.toml'))}")
        return 0
    from neonym.preflight.preflight import preflight

    if given.debug_dataset:
        from neonym.cli.check import print_ids

        found = preflight(given.run, given.problems)
        print_ids(found)
        found.raise_errors()
        return 0
    found = preflight(given.run, given.problems, hasty=True)  # before torch is imported, which takes seconds
    plans = found.complete_plans()
    with uncollected():
        from neonym.cli.signals import stopping
        from neonym.generation.judge import NOT_LEARNED
        from neonym.runs.console import Terminal
        from neonym.runs.start import start_plans
        from neonym.runs.stop import Stop
        from neonym.training.processes import leave_processes

    log, stop = given.run.log, Stop()
    terminal = Terminal(level=log.console_log_level, log=Path(log.console_log_file) if log.console_log_file else None)
    with stopping(stop):
        result = start_plans(plans, [terminal], stop)
    leave_processes()
    if result.failures and is_first():  # which may still write while the others have ended
        for error in result.failures.values():
            print_problems(error.problems)
    if result.signal:
        return 128 + result.signal
    if result.failures:
        return EXIT_USER_ERROR if is_first() else 0
    if result.was_finished or is_launched():  # the launcher's traceback would hide the verdict
        return 0
    if any(v.word == NOT_LEARNED for v in result.verdicts):
        return EXIT_NOT_LEARNED
    return 0


def stop_for_errors(problems: list[Problem]) -> None:
    """Raise ConfigError with all problems if one of them is an error."""
    if any(problem.severity == "error" for problem in problems):
        raise ConfigError(problems)
