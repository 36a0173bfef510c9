"""Run `neonym generate`, which is also `gen_img_diffusers.py` and `gen_img.py`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from neonym.config.flags import CommandLine, flags_in, read_command_line, repeated_flags
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

DESCRIPTION = "Generate images, with learned words in the prompts. The word is the file name without ending."


def main(argv: list[str], prog: str) -> int:
    values, notes = values_given(read_command_line(GenerateFlags, argv, prog, DESCRIPTION))
    from neonym.generation.metadata import like
    from neonym.generation.request.prepare import prepare
    from neonym.generation.run import Session, changed_since

    settings, record = GenerateSettings.model_validate(values), None
    if settings.like:
        settings, record = like(settings.like, values)
    ready = prepare(settings, notes)
    tell(ready.problems)
    if settings.network_show_meta:
        show_metadata(settings.network_weights)
    session = Session(ready)
    tell(session.problems)
    tell(changed_since(record, session.facts) if record else [])
    try:
        generate_all(ready, session)
    except KeyboardInterrupt:
        print(f"\ninterrupted: {session.done} images are finished, in {settings.outdir}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def values_given(line: CommandLine[GenerateFlags]) -> tuple[dict[str, Any], list[Problem]]:
    """Return the settings that a command line gives, and the problems with its flags."""
    flags, named = line.flags, flags_in(line.argv, GenerateFlags)
    given = Sink(problems=[*line.problems, *repeated_flags(line.argv)])
    values = {name: getattr(flags, name) for name in GenerateSettings.model_fields if name in named}
    values |= {name: getattr(flags.compat, name) for name in GENERATOR if name in named}
    given.origins = dict.fromkeys(values, "command line")
    return replace_compat(values, GENERATOR, given), given.problems


def tell(problems: list[Problem]) -> None:
    """Print problems to the error stream."""
    for problem in problems:
        print(f"{problem.severity}: {problem}", file=sys.stderr)


def show_metadata(files: tuple[str, ...]) -> None:
    """Print the metadata of LoRA files."""
    from neonym.generation.lora import network_facts

    for file in files:
        print(f"{file}: {json.dumps(network_facts(file), indent=1, ensure_ascii=False)}")


def generate_all(ready: Ready, session: Session) -> None:
    """Generate everything that the flags ask for, then the prompts that are typed. A grid of all of them comes last."""
    if ready.sheet:
        for path in session.generate_sheet(ready.sheet):
            print(path, flush=True)
        return
    shown: list[tuple[str, Image.Image]] = []
    try:
        for path, image in session.generate(ready.plan.jobs()):
            print(f"{path}  [{session.done}/{ready.total}]", flush=True)
            if ready.settings.grid:
                shown.append((path.name, image))
        if ready.settings.interactive:
            generate_typed(ready, session)
    finally:
        if shown:
            print(session.save_grid(shown))


def generate_typed(ready: Ready, session: Session) -> None:
    """Generate images for prompts that are typed, with history and completion of the words, until the input ends."""
    for number, line in enumerate(typed_lines(tuple(ready.words))):
        try:
            for path in generate_line(line, number, ready, session):
                print(path, flush=True)
        except UserError as error:
            print(error, file=sys.stderr)
        except KeyboardInterrupt:
            print("stopped; end the input to leave", file=sys.stderr)


def generate_line(line: str, number: int, ready: Ready, session: Session) -> Iterator[Path]:
    """Yield the image files of a typed line. Raise ConfigError before the first one if the line is wrong."""
    before = len(ready.plan.problems)
    jobs = list(ready.plan.jobs_of_line(line, f"line {number + 1}"))
    tell([*ready.plan.problems[before:], *(warning for job in jobs for warning in ready.inspector.inspect(job)[1])])
    for path, _ in session.generate(jobs):
        yield path


def typed_lines(words: tuple[str, ...]) -> Iterator[str]:
    """Yield the typed lines that are neither blank nor comments."""
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
    """Make the arrow keys recall earlier lines and Tab complete words, on systems with readline."""
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
