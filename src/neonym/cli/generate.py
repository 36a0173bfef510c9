"""Run `neonym generate`, which is also `gen_img_diffusers.py` and `gen_img.py`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from neonym.cli.terminal import print_problems
from neonym.config.flags import CommandLine, flags_in, read_command_line, repeated_flags
from neonym.config.flat import Sink, replace_compat
from neonym.config.generate import GenerateFlags, GenerateSettings
from neonym.config.sdscripts import GENERATOR
from neonym.errors import EXIT_INTERRUPTED, Problem, UserError, counted
from neonym.io.imports import uncollected

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from PIL import Image

    from neonym.generation.request.prepare import PreparedRun
    from neonym.generation.run import GenerationSession

DESCRIPTION = "Generate images with learned words in the prompts. A word is its file's name without the extension."


def main(argv: list[str], prog: str) -> int:
    values, notes = values_given(read_command_line(GenerateFlags, argv, prog, DESCRIPTION))
    with uncollected():
        from neonym.generation.metadata import settings_like
        from neonym.generation.request.prepare import prepare
        from neonym.generation.run import GenerationSession, reproduction_warnings

    settings, record = GenerateSettings.model_validate(values), None
    if settings.like:
        settings, record = settings_like(settings.like, values)
    ready = prepare(settings, notes)
    print_problems(ready.problems)
    if settings.network_show_meta:
        show_metadata(settings.network_weights)
    session = GenerationSession(ready, lambda text: print(text, file=sys.stderr))
    print_problems(session.problems)
    print_problems(reproduction_warnings(record, session.facts) if record else [])
    try:
        generate_all(ready, session)
    except KeyboardInterrupt:
        print(f"\ninterrupted: {counted(session.done, 'image')} finished, in {settings.outdir}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def values_given(line: CommandLine[GenerateFlags]) -> tuple[dict[str, Any], list[Problem]]:
    """Return the settings on a command line, and the problems with its flags."""
    flags, named = line.flags, flags_in(line.argv, GenerateFlags)
    given = Sink(problems=[*line.problems, *repeated_flags(line.argv)])
    values = {name: getattr(flags, name) for name in GenerateSettings.model_fields if name in named}
    values |= {name: getattr(flags.compat, name) for name in GENERATOR if name in named}
    given.origins = dict.fromkeys(values, "command line")
    return replace_compat(values, GENERATOR, given), given.problems


def show_metadata(files: tuple[str, ...]) -> None:
    """Print the metadata of LoRA files."""
    from neonym.generation.lora import network_metadata

    for file in files:
        print(f"{file}: {json.dumps(network_metadata(file), indent=1, ensure_ascii=False)}")


def generate_all(ready: PreparedRun, session: GenerationSession) -> None:
    """Generate the images that the flags describe, then those of typed prompts, and save the grid last."""
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


def generate_typed(ready: PreparedRun, session: GenerationSession) -> None:
    """Generate images for typed prompts, with a history and completion of the words, until the input ends."""
    for number, line in enumerate(typed_lines(tuple(ready.words))):
        try:
            for path in generate_line(line, number, ready, session):
                print(path, flush=True)
        except UserError as error:
            print(error, file=sys.stderr)
        except KeyboardInterrupt:
            print("stopped; press Ctrl-D to quit", file=sys.stderr)


def generate_line(line: str, number: int, ready: PreparedRun, session: GenerationSession) -> Iterator[Path]:
    """Yield the image files of a typed line. Raises ConfigError before the first one if the line is wrong."""
    before = len(ready.plan.problems)
    jobs = list(ready.plan.jobs_of_line(line, f"line {number + 1}"))
    print_problems(
        [*ready.plan.problems[before:], *(warning for job in jobs for warning in ready.inspector.inspect(job)[1])]
    )
    for path, _ in session.generate(jobs):
        yield path


def typed_lines(words: tuple[str, ...]) -> Iterator[str]:
    """Yield the typed lines, without blank lines and comments."""
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
        matches = [name for name in names if name.startswith(text)]
        return matches[state] if state < len(matches) else None

    readline.set_completer_delims(" ,:()[]<>|{}")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
