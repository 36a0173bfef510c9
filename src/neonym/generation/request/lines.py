"""Read a line of a prompt file for generation: the prompt and the inline options of sd-scripts' gen_img.py."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from neonym.config.limits import LARGEST, SCALES
from neonym.errors import Problem
from neonym.generation.image_files import ENDINGS
from neonym.generation.request.prompts import parse_seed, split_options

OFF = "none"  # `--nl none`
SEEDS = re.compile(r"(?:^|\s)--d\s+(\S+)", re.IGNORECASE)
NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # null characters of UTF-16, bytes of other encodings
LONGEST_NAME = 200  # bytes


@dataclass(frozen=True)
class PromptLine:
    """A prompt and the values that its line sets, under their names in `Job`."""

    prompt: str
    values: dict[str, Any] = field(default_factory=dict)


def parse_int(text: str, least: int = 0) -> int:
    """Return a whole number of at least `least`. Raises ValueError for anything else."""
    try:
        number = int(text)
    except ValueError:
        raise ValueError("a whole number is expected") from None
    if not least <= number <= LARGEST:
        raise ValueError(f"a whole number from {least} to {LARGEST} is expected")
    return number


def parse_float(text: str) -> float:
    """Return a number. Raises ValueError for anything else."""
    try:
        return float(text)
    except ValueError:
        raise ValueError("a number is expected") from None


def parse_scale(text: str) -> float:
    """Return a guidance scale. Raises ValueError for one outside the limits."""
    number = parse_float(text)
    if not SCALES[0] <= number <= SCALES[1]:
        raise ValueError(f"a guidance scale from {SCALES[0]} to {SCALES[1]} is expected")
    return number


def parse_fraction(text: str) -> float:
    """Return a number from 0 to 1. Raises ValueError for anything else."""
    number = parse_float(text)
    if not 0 <= number <= 1:
        raise ValueError("a number from 0 to 1 is expected")
    return number


def parse_pixels(text: str) -> int:
    """Return a number of pixels, at least 1. Raises ValueError for anything else."""
    return parse_int(text, least=1)


def parse_file_name(text: str) -> str:
    """Return a file name within the output folder, as a PNG file by default. Raises ValueError for one outside it."""
    path = PurePath(text)
    if "\0" in text or len(text.encode(errors="replace")) > LONGEST_NAME or text.endswith("/"):
        raise ValueError(f"a file name of at most {LONGEST_NAME} bytes is expected")
    if path.is_absolute() or ".." in path.parts or "\\" in text or path.name in ("", "."):
        raise ValueError("a name within --outdir is expected")
    if path.suffix and path.suffix.lower() not in ENDINGS:
        raise ValueError(f"one of {', '.join(ENDINGS)} is expected")
    return text if path.suffix else f"{text}.png"


def parse_multipliers(text: str) -> tuple[float, ...]:
    """Return the multipliers of LoRAs, separated by commas. Raises ValueError for any that is not finite."""
    found = tuple(parse_float(part) for part in text.split(","))
    if not all(math.isfinite(number) for number in found):
        raise ValueError("finite numbers are expected")
    return found


LETTERS: dict[str, tuple[str, Callable[[str], Any]]] = {  # letter -> name in `Job`, parser
    "n": ("negative_prompt", str),
    "w": ("width", parse_pixels),
    "h": ("height", parse_pixels),
    "s": ("steps", parse_int),
    "l": ("scale", parse_scale),
    "g": ("embedded_guidance", parse_scale),
    "nl": ("negative_scale", lambda text: None if text.lower() == OFF else parse_scale(text)),
    "t": ("strength", parse_fraction),
    "am": ("multipliers", parse_multipliers),
    "c": ("clip_prompt", str),
    "ow": ("original_width", parse_pixels),
    "oh": ("original_height", parse_pixels),
    "nw": ("original_width_negative", parse_pixels),
    "nh": ("original_height_negative", parse_pixels),
    "ct": ("crop_top", parse_int),
    "cl": ("crop_left", parse_int),
    "f": ("file", parse_file_name),
}
UNSUPPORTED = dict.fromkeys(("dsd1", "dst1", "dsd2", "dst2", "dsr"), "Deep Shrink") | dict.fromkeys(
    ("glt", "glr", "gle", "gls", "glsn", "glus"), "Gradual Latent"
)


def take_seeds(line: str, where: str, problems: list[Problem]) -> tuple[str, tuple[int, ...]]:
    """Return the line without `--d 1,2,3`, and those seeds, one for each image. Errors are added to `problems`."""
    match = SEEDS.search(line)
    if match is None:
        return line, ()
    try:
        seeds = tuple(parse_seed(part) for part in match[1].split(","))
    except ValueError as error:
        problems.append(Problem("error", f"`--d {match[1]}`: {error}", where, "Write, for example, --d 1,2,3"))
        seeds = ()
    return line[: match.start()] + line[match.end() :], seeds


def read_prompt_line(line: str, where: str, problems: list[Problem]) -> PromptLine:
    """Return the prompt and the values of a line without variants. Errors and warnings are added to `problems`."""
    if NOT_TEXT.search(line):
        problems.append(
            Problem("error", "the line contains characters that are not text", where, "Save the file as UTF-8")
        )
    prompt, options = split_options(line)
    letters = [letter for letter, _ in options]
    for letter in dict.fromkeys(letter for letter in letters if letter in LETTERS and letters.count(letter) > 1):
        problems.append(Problem("warning", f"`--{letter}` is set more than once: only the last one counts", where))
    values: dict[str, Any] = {}
    for letter, text in options:
        if letter in UNSUPPORTED:
            problems.append(
                Problem("error", f"`--{letter}` belongs to {UNSUPPORTED[letter]}, which is not supported", where)
            )
        elif letter == "d":
            problems.append(
                Problem("error", "`--d` is given twice or has no value", where, "Write, for example, --d 1,2,3")
            )
        elif letter not in LETTERS:
            known = ", ".join(f"--{name}" for name in ("d", *LETTERS))
            problems.append(Problem("error", f"`--{letter}` is not an inline option", where, f"Use one of {known}"))
        elif not text and letter != "n":
            problems.append(Problem("error", f"`--{letter}` has no value", where))
        else:
            name, read = LETTERS[letter]
            try:
                values[name] = read(text)
            except (ValueError, OverflowError) as error:
                problems.append(Problem("error", f"`--{letter} {text}`: {error}", where))
    return PromptLine(prompt, values)
