"""`neonym generate`, which is also `gen_img_diffusers.py` and `gen_img.py`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from neonym.config.flags import Line, flags_in, read_line, repeated
from neonym.config.flat import Sink, replace_compat
from neonym.config.generate import GenerateFlags, GenerateSettings
from neonym.config.sdscripts import GENERATOR
from neonym.errors import EXIT_INTERRUPTED, Problem, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from PIL import Image

    from neonym.generation.request.prepare import Ready
    from neonym.generation.run import Session

DESCRIPTION = "Make pictures, with learned words in the prompts. The word is the file name without ending."


def main(argv: list[str], prog: str) -> int:
    values, notes = values_given(read_line(GenerateFlags, argv, prog, DESCRIPTION))
    from neonym.generation.metadata import like
    from neonym.generation.request.prepare import prepare
    from neonym.generation.run import Session, changed_since

    settings, said = GenerateSettings.model_validate(values), None
    if settings.like:
        settings, said = like(settings.like, values)
    ready = prepare(settings, notes)
    tell(ready.problems)
    if settings.network_show_meta:
        show_metadata(settings.network_weights)
    session = Session(ready)
    tell(session.problems)
    tell(changed_since(said, session.facts) if said else [])
    try:
        draw_all(ready, session)
    except KeyboardInterrupt:
        print(f"\ninterrupted: {session.done} pictures are finished, in {settings.outdir}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def values_given(line: Line[GenerateFlags]) -> tuple[dict[str, Any], list[Problem]]:
    """The settings that a command line names, and what is wrong or to be said of its flags."""
    flags, named = line.flags, flags_in(line.argv, GenerateFlags)
    given = Sink(problems=[*line.problems, *repeated(line.argv)])
    values = {name: getattr(flags, name) for name in GenerateSettings.model_fields if name in named}
    values |= {name: getattr(flags.compat, name) for name in GENERATOR if name in named}
    given.origins = dict.fromkeys(values, "command line")
    return replace_compat(values, GENERATOR, given), given.problems


def tell(problems: list[Problem]) -> None:
    for problem in problems:
        print(f"{problem.severity}: {problem}", file=sys.stderr)


def show_metadata(files: tuple[str, ...]) -> None:
    from neonym.generation.lora import network_facts

    for file in files:
        print(f"{file}: {json.dumps(network_facts(file), indent=1, ensure_ascii=False)}")


def draw_all(ready: Ready, session: Session) -> None:
    """Everything that was asked for, and what is asked for now; sheets at the end."""
    if ready.sheet:
        for path in session.draw_sheet(ready.sheet):
            print(path, flush=True)
        return
    shown: list[tuple[str, Image.Image]] = []
    try:
        for path, picture in session.draw(ready.plan.jobs()):
            print(f"{path}  [{session.done}/{ready.total}]", flush=True)
            if ready.settings.grid:
                shown.append((path.name, picture))
        if ready.settings.interactive:
            ask(ready, session)
    finally:
        if shown:
            print(session.save_grid(shown))


def ask(ready: Ready, session: Session) -> None:
    """Prompts from a terminal, with history and completion of the words, until the input ends."""
    for number, line in enumerate(typed_lines(tuple(ready.words))):
        try:
            for path in draw_line(line, number, ready, session):
                print(path, flush=True)
        except UserError as error:
            print(error, file=sys.stderr)
        except KeyboardInterrupt:
            print("stopped; the end of the input ends", file=sys.stderr)


def draw_line(line: str, number: int, ready: Ready, session: Session) -> Iterator[Path]:
    """Raises ConfigError for a line that is wrong, of which nothing is drawn then."""
    from neonym.generation.request.prepare import look_at

    before = len(ready.plan.problems)
    jobs = list(ready.plan.jobs_of(line, f"line {number + 1}"))
    tell([*ready.plan.problems[before:], *(warning for job in jobs for warning in look_at(job, ready)[1])])
    for path, _ in session.draw(jobs):
        yield path


def typed_lines(words: tuple[str, ...]) -> Iterator[str]:
    """Lines that are no blanks and no comments."""
    if sys.stdin.isatty():
        with_completion(words)
    while True:
        try:
            line = input("prompt> " if sys.stdin.isatty() else "").removeprefix("\ufeff").strip()
        except EOFError:
            return
        if line and not line.startswith("#"):
            yield line


def with_completion(words: tuple[str, ...]) -> None:
    """Arrow keys go through earlier lines, Tab completes words; not on systems without readline."""
    try:
        import readline
    except ImportError:
        return
    names = (*words, "--n ", "--w ", "--h ", "--s ", "--d ", "--l ", "--nl ", "--t ", "--am ", "--f ")

    def complete(text: str, state: int) -> str | None:
        fitting = [name for name in names if name.startswith(text)]
        return fitting[state] if state < len(fitting) else None

    readline.set_completer_delims(" ,:()[]<>|{}")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
