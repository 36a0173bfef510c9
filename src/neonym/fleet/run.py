"""A fleet from its plan to its index page: read, check, cut into shards, train, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from neonym.errors import EXIT_NOT_LEARNED, EXIT_USER_ERROR, UserError
from neonym.extras import install_command, is_installed
from neonym.fleet.checking import Finding, check_words, remarks
from neonym.fleet.driver import Driver, Manner
from neonym.fleet.log import FleetLog
from neonym.fleet.output import PAGE, Output
from neonym.fleet.page import index_page
from neonym.fleet.pool import Pool
from neonym.fleet.progress import FleetProgress
from neonym.fleet.shards import cut
from neonym.fleet.shared_folders import have_relative_paths
from neonym.fleet.table import FleetTable
from neonym.fleet.words import Outcome, Word
from neonym.io.devices import devices

if TYPE_CHECKING:
    import neonym

PAGE_SECONDS = 30.0  # between two versions of the index page


@dataclass
class Request:
    """The work of a fleet: how its shards are trained, and by whom."""

    manner: Manner
    ray: str | None = None
    workers: int | None = None
    gpus: int | None = None  # of each worker on Ray
    shard: int | None = None  # words in a shard


def check_plan(words: Sequence[Word], output: Output, tell: Callable[[str], object]) -> list[Finding]:
    """Return the problems of all words, after telling the notes and warnings, each once."""
    findings = check_words(words, [output.check_folder(word) for word in words])
    for text in remarks(findings):
        tell(text)
    return findings


def open_pool(request: Request) -> Pool:
    """Return the workers of a fleet. Raises UserError if they cannot be had."""
    if request.ray is None:
        from neonym.fleet.local import LocalPool

        return LocalPool(devices(), request.workers)
    if not is_installed("ray"):
        raise UserError("needs the package ray", f"--ray {request.ray}", f"Run: {install_command('ray')}")
    from neonym.fleet.on_ray import RayPool

    return RayPool(request.ray, request.workers, request.gpus)


def train_findings(
    findings: Sequence[Finding],
    output: Output,
    request: Request,
    stop: neonym.Stop,
    table: FleetTable,
    following: Callable[[], object] = lambda: None,
) -> FleetProgress:
    """Train every word that can be trained, and return how the fleet has gone.

    `following` is called once the workers are there: signals that ask for a stop are handled from then on.
    """
    words = [finding.word for finding in findings]
    progress, log = FleetProgress(words), FleetLog(output, table.print)
    log.write("started", words=[word.name for word in words])
    for finding in findings:
        if finding.error:
            progress.end(Outcome(finding.word.name, "failed", finding.error))
            log.write_outcome(progress.outcomes[finding.word.name])
    ready = [finding.word for finding in findings if not finding.error]
    try:
        if ready:
            run_ready(ready, words, output, request, stop, table, progress, log, following)
        write_page(words, progress, output, table.print)
    finally:
        counts = progress.counts()
        is_over = not (stop.requested or counts["waiting"] or counts["running"])
        log.write("ended" if is_over else "stopped", **counts)
        log.flush()
    return progress


def run_ready(
    ready: Sequence[Word],
    words: Sequence[Word],
    output: Output,
    request: Request,
    stop: neonym.Stop,
    table: FleetTable,
    progress: FleetProgress,
    log: FleetLog,
    following: Callable[[], object],
) -> None:
    """Train the words that can be trained, and show how far they are."""
    finished = output.looks_finished(ready)
    pool = open_pool(request)
    page_written = 0.0

    def show(now: FleetProgress) -> None:
        nonlocal page_written
        table.show(now)
        if time.monotonic() - page_written >= PAGE_SECONDS:
            page_written = time.monotonic()
            write_page(words, now, output, table.print)

    try:
        following()
        shards = cut(ready, finished, pool.count(), request.shard)
        start_folder = str(Path.cwd()) if have_relative_paths(ready, request.manner.place) else ""
        manner = replace(request.manner, mark=output.mark, start_folder=start_folder)
        Driver(ready, shards, pool, manner, progress, log, show).run(stop)
    finally:
        pool.close()


def write_page(words: Sequence[Word], progress: FleetProgress, output: Output, tell: Callable[[str], object]) -> None:
    """Write the index page. A full disk does not stop the fleet."""
    try:
        output.write(PAGE, index_page(words, progress, "fleet"))
    except OSError as error:
        tell(f"warning: {PAGE} cannot be written ({error})")


def summary(words: Sequence[Word], progress: FleetProgress, page: str) -> str:
    """Return the end of a fleet for people: the words that need attention, the counts, and where the page is."""
    lines = []
    for word in words:
        outcome = progress.outcomes.get(word.name)
        if outcome is not None and outcome.ending in ("weak", "not learned"):
            verdict = outcome.verdict or {}
            lines.append(f"{word.name}: {outcome.ending.upper()} ({verdict.get('reason')})")
            lines += [f"  advice: {verdict['advice']}"] if verdict.get("advice") else []
    for word in words:
        outcome = progress.outcomes.get(word.name)
        if outcome is not None and outcome.ending == "failed":
            lines.append(f"{word.name}: FAILED\n{outcome.error}")
    counts = ", ".join(f"{count} {state}" for state, count in progress.counts().items() if count)
    return "\n".join([*lines, f"{counts}: {page}"])


def exit_code(progress: FleetProgress) -> int:
    """Return 2 if a word has failed, 3 if one is not learned, otherwise 0."""
    counts = progress.counts()
    if counts["failed"]:
        return EXIT_USER_ERROR
    return EXIT_NOT_LEARNED if counts["not learned"] else 0


def page_place(place: str) -> str:
    """Return where the index page is."""
    return f"{place.rstrip('/')}/{PAGE}" if "://" in place else str(Path(place) / PAGE)
