"""A line of a prompt file for generation: the prompt and its inline options, those of sd-scripts' gen_img.py."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from neonym.config.generate import LARGEST, SCALES
from neonym.errors import Problem
from neonym.generation.image_files import ENDINGS
from neonym.generation.request.prompts import seed, split_options

OFF = "none"  # `--nl none`
SEEDS = re.compile(r"(?:^|\s)--d\s+(\S+)", re.IGNORECASE)
NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # zeros of UTF-16, bytes of other encodings
LONGEST_NAME = 200


@dataclass(frozen=True)
class Line:
    """A prompt and the values that its line sets, under the names of `Job`; the run's settings hold for all others."""

    prompt: str
    values: dict[str, Any] = field(default_factory=dict)


def whole(text: str, least: int = 0) -> int:
    """Return a whole number. Raises ValueError."""
    try:
        number = int(text)
    except ValueError:
        raise ValueError("a whole number is expected") from None
    if not least <= number <= LARGEST:
        raise ValueError(f"a whole number from {least} to {LARGEST} is expected")
    return number


def real(text: str) -> float:
    """Return a number. Raises ValueError."""
    try:
        return float(text)
    except ValueError:
        raise ValueError("a number is expected") from None


def scale(text: str) -> float:
    """Return a guidance scale. Raises ValueError."""
    number = real(text)
    if not SCALES[0] <= number <= SCALES[1]:
        raise ValueError(f"a guidance scale from {SCALES[0]} to {SCALES[1]} is expected")
    return number


def share(text: str) -> float:
    """Return a number from 0 to 1. Raises ValueError."""
    number = real(text)
    if not 0 <= number <= 1:
        raise ValueError("a number from 0 to 1 is expected")
    return number


def pixels(text: str) -> int:
    """Return a number of pixels. Raises ValueError."""
    return whole(text, least=1)


def file_name(text: str) -> str:
    """Return a file name within the output folder. Raises ValueError for one that leads out of it."""
    path = PurePath(text)
    if "\0" in text or len(text.encode(errors="replace")) > LONGEST_NAME or text.endswith("/"):
        raise ValueError(f"a file name of at most {LONGEST_NAME} bytes is expected")
    if path.is_absolute() or ".." in path.parts or "\\" in text or path.name in ("", "."):
        raise ValueError("a name within --outdir is expected")
    if path.suffix and path.suffix.lower() not in ENDINGS:
        raise ValueError(f"one of {', '.join(ENDINGS)} is expected")
    return text if path.suffix else f"{text}.png"


def multipliers(text: str) -> tuple[float, ...]:
    """Return the multipliers of LoRAs. Raises ValueError for those that are not finite."""
    found = tuple(real(part) for part in text.split(","))
    if not all(math.isfinite(number) for number in found):
        raise ValueError("finite numbers are expected")
    return found


LETTERS: dict[str, tuple[str, Callable[[str], Any]]] = {  # letter -> name in Job, reader
    "n": ("negative_prompt", str),
    "w": ("width", pixels),
    "h": ("height", pixels),
    "s": ("steps", whole),
    "l": ("scale", scale),
    "nl": ("negative_scale", lambda text: None if text.lower() == OFF else scale(text)),
    "t": ("strength", share),
    "am": ("multipliers", multipliers),
    "c": ("clip_prompt", str),
    "ow": ("original_width", pixels),
    "oh": ("original_height", pixels),
    "nw": ("original_width_negative", pixels),
    "nh": ("original_height_negative", pixels),
    "ct": ("crop_top", whole),
    "cl": ("crop_left", whole),
    "f": ("file", file_name),
}
REFUSED = dict.fromkeys(("dsd1", "dst1", "dsd2", "dst2", "dsr"), "Deep Shrink") | dict.fromkeys(
    ("glt", "glr", "gle", "gls", "glsn", "glus"), "Gradual Latent"
)


def take_seeds(line: str, where: str, problems: list[Problem]) -> tuple[str, tuple[int, ...]]:
    """Return the line without `--d 1,2,3`, and those seeds: one for each image. What is wrong goes to `problems`."""
    match = SEEDS.search(line)
    if match is None:
        return line, ()
    try:
        seeds = tuple(seed(part) for part in match[1].split(","))
    except ValueError as error:
        problems.append(Problem("error", f"`--d {match[1]}`: {error}", where, "Write for example --d 1,2,3"))
        seeds = ()
    return line[: match.start()] + line[match.end() :], seeds


def read_line(line: str, where: str, problems: list[Problem]) -> Line:
    """Return the prompt and the values of a line without variants; errors and warnings go to `problems`."""
    if NOT_TEXT.search(line):
        problems.append(Problem("error", "has characters in it that are not text", where, "Write it as UTF-8"))
    prompt, options = split_options(line)
    letters = [letter for letter, _ in options]
    for letter in dict.fromkeys(letter for letter in letters if letter in LETTERS and letters.count(letter) > 1):
        problems.append(Problem("warning", f"`--{letter}` is given twice: only the last one counts", where))
    values: dict[str, Any] = {}
    for letter, text in options:
        if letter in REFUSED:
            problems.append(
                Problem("error", f"`--{letter}` belongs to {REFUSED[letter]}, which is not supported", where)
            )
        elif letter == "d":
            problems.append(
                Problem("error", "`--d` is given twice, or has no value", where, "Write for example --d 1,2,3")
            )
        elif letter not in LETTERS:
            known = ", ".join(f"--{name}" for name in ("d", *LETTERS))
            problems.append(Problem("error", f"`--{letter}` is not an inline option", where, f"Known: {known}"))
        elif not text and letter != "n":
            problems.append(Problem("error", f"`--{letter}` has no value", where))
        else:
            name, read = LETTERS[letter]
            try:
                values[name] = read(text)
            except (ValueError, OverflowError) as error:
                problems.append(Problem("error", f"`--{letter} {text}`: {error}", where))
    return Line(prompt, values)
