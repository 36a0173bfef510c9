"""Read prompts from prompt files and from images that store the prompt they were generated from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from neonym.data.images import find_images, inspect_image
from neonym.errors import ConfigError, DataError, Problem
from neonym.generation.image_files import texts_in


def prompt_lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the location and the text of each prompt line, without blank lines and lines that begin with #.

    Raises ConfigError if the file cannot be read as UTF-8 text.
    """
    try:
        with file.open(encoding="utf-8-sig") as opened:
            for number, line in enumerate(opened, 1):
                if (text := line.strip()) and not text.startswith("#"):
                    yield f"{file} line {number}", text
    except (OSError, UnicodeDecodeError) as error:
        fix = "Check --from_file: it takes a UTF-8 text file with one prompt per line"
        raise ConfigError([Problem("error", f"cannot be read ({error})", str(file), fix)]) from error


def is_pipe(file: str | None) -> bool:
    """Return whether a prompt file can be read only once, like a pipe."""
    return file is not None and Path(file).exists() and not Path(file).is_file()


def readable_images(name: str | None, flag: str, problems: list[Problem]) -> list[str]:
    """Return an image file, or those of a folder sorted by name. Files that cannot be read are added to `problems`."""
    if name is None:
        return []
    path = Path(name)
    try:
        files = find_images(path) if path.is_dir() else [path]
    except OSError as error:
        problems.append(Problem("error", f"cannot be read ({error.strerror})", f"{flag} {name}"))
        return []
    if not files:
        problems.append(Problem("error", "contains no images", f"{flag} {name}"))
    readable = []
    for file in files:
        try:
            inspect_image(file)
            readable.append(str(file))
        except DataError as error:
            problems.append(replace(error.problem, where=f"{flag} {file}"))
    return readable


def prompts_in_images(files: Iterable[str]) -> list[tuple[str, str]]:
    """Return each image file with the prompt line that it stores. Raises ConfigError with all files that store none."""
    found, problems = [], list[Problem]()
    for file in files:
        try:
            found.append((file, prompt_in_image(file)))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return found


def prompt_in_image(file: str) -> str:
    """Return the prompt and the negative prompt that an image stores, as a line. Raises ConfigError if it has none."""
    texts = texts_in(file)
    if "class_type" in texts.get("prompt", ""):  # ComfyUI stores a graph under this key
        del texts["prompt"]
    prompt, negative = texts.get("prompt", ""), texts.get("negative-prompt", "")
    if "prompt" not in texts and "parameters" in texts:
        prompt, negative = split_parameters(texts["parameters"])
    elif "prompt" not in texts:
        raise ConfigError([Problem("error", "the image stores no prompt", file, "Use --prompt or --from_file")])
    return f"{escape_variants(prompt)} --n {escape_variants(negative)}" if negative else escape_variants(prompt)


def split_parameters(block: str) -> tuple[str, str]:
    """Return the prompt and the negative prompt in AUTOMATIC1111's block of text."""
    lines = block.strip().split("\n")
    if lines[-1].startswith("Steps: "):
        del lines[-1]
    prompt, *negative = re.split(r"^\s*Negative prompt:", "\n".join(lines), maxsplit=1, flags=re.MULTILINE)
    return prompt.strip(), "".join(negative).strip()


def escape_variants(prompt: str) -> str:
    """Return a final prompt as a line, with braces and bars escaped so that they are not read as variants."""
    return re.sub(r"[{}|]", r"\\\g<0>", prompt)
