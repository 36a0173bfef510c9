"""Run `neonym fleet PLAN`: hundreds of words from one plan file, on the devices of this machine or of a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from pydantic import BaseModel, Field

from neonym.cli.terminal import print_problems
from neonym.config.flags import parse_flags
from neonym.errors import EXIT_USER_ERROR

if TYPE_CHECKING:
    from neonym.fleet.checking import Finding

DESCRIPTION = (
    "Learn every word of a plan file. To go on with a fleet that was stopped, run the same command again: words that are "
    "finished are not done again, and interrupted ones resume."
)


class FleetFlags(BaseModel):
    """The flags of a fleet."""

    plan: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PLAN")] = Field(
        description="Plan file (TOML): [settings], [[words]], words_dir."
    )
    output_dir: str = Field(
        "outputs/fleet",
        description="The output folder, with a folder for each word; or a URL such as s3://bucket/folder.",
    )
    check: bool = Field(False, description="Check every word, and train nothing.")
    ray: str | None = Field(
        None,
        description="Train on a Ray cluster: its address, `auto` to find it, or `local` to start one on this machine.",
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="The number of processes (default: one for each device of this machine or of the cluster).",
    )
    gpus: int | None = Field(
        None, ge=0, description="The GPUs of each worker with --ray (default: 1 if the cluster has any at the start)."
    )
    lanes: int | None = Field(
        None,
        ge=1,
        description="The number of words that one process trains at once (default: what its memory carries).",
    )
    shard: int | None = Field(
        None,
        ge=1,
        description="The number of words that a process gets at a time (default: it depends on how many there are).",
    )
    scratch: str | None = Field(
        None,
        description="The local folder for runs whose output is a URL (default: in the folder for temporary files). Variables such as $TMPDIR have their values of each machine.",
    )
    save_seconds: float = Field(
        60.0, ge=0, description="The seconds between two copies of a word's state to an output folder that is a URL."
    )


def main(argv: list[str], prog: str) -> int:
    """Run the command. Return 128 + a signal that stopped it, 2 if a word failed, 3 if one is NOT LEARNED."""
    flags = parse_flags(FleetFlags, argv, prog, DESCRIPTION)
    from neonym.fleet.output import open_output
    from neonym.fleet.plan import read_plan

    words, problems = read_plan(Path(flags.plan))
    print_problems(problems)
    output = open_output(flags.output_dir, flags.scratch)
    from neonym.cli.signals import stopping
    from neonym.fleet.driver import Manner
    from neonym.fleet.run import Request, check_plan, exit_code, page_place, summary, train_findings
    from neonym.fleet.table import FleetTable
    from neonym.runs.stop import Stop

    table, stop = FleetTable(), Stop()
    if flags.check:
        return report_check(check_plan(words, output, table.print))
    manner = Manner(flags.output_dir, flags.scratch, flags.lanes, flags.save_seconds)
    request = Request(manner, flags.ray, flags.workers, flags.gpus, flags.shard)
    with output.claimed():
        findings = check_plan(words, output, table.print)
        with ExitStack() as signals, table:
            progress = train_findings(
                findings, output, request, stop, table, lambda: signals.enter_context(stopping(stop))
            )
    print(summary(words, progress, page_place(flags.output_dir)))
    return 128 + stop.signal if stop.signal else exit_code(progress)


def report_check(findings: Sequence[Finding]) -> int:
    """Print the errors of all words, and return 2 if there are any."""
    errors = [finding.error for finding in findings if finding.error]
    for error in errors:
        print(error)
    print(f"{len(findings) - len(errors)} of {len(findings)} words can be trained")
    return EXIT_USER_ERROR if errors else 0
