"""Read prompt files for the sample images of a training run, in sd-scripts' formats.

The formats are .txt files with inline options, .toml files and .json files.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from neonym.config.limits import LAST_SEED, MOST_STEPS
from neonym.config.resolve import read_table
from neonym.errors import ConfigError, Problem, nearest

SMALLEST = 64  # pixels of a side


@dataclass(frozen=True)
class SamplePrompt:
    """Everything that determines one sample image. None means the model's or the run's value. Sizes are in pixels."""

    prompt: str
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    sample_steps: int = 30
    scale: float | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    sample_sampler: str | None = None

    def on_grid(self, multiple: int) -> SamplePrompt:
        """Return the prompt with sides rounded down to multiples of `multiple`, but at least 64, as in sd-scripts."""
        sides = {name: side for name in ("width", "height") if (side := getattr(self, name)) is not None}
        return replace(self, **{name: max(SMALLEST, side // multiple * multiple) for name, side in sides.items()})


def parse_side(text: Any) -> int:
    """Return a number of pixels, at least 1. Raises ValueError for anything else."""
    if not str(text).strip().isdecimal() or int(text) < 1:
        raise ValueError("a whole number of pixels is expected")
    return int(text)


def parse_sample_scale(text: Any) -> float:
    """Return a guidance scale. Raises ValueError if it is not a finite number."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is expected")
    return number


def parse_steps(text: Any) -> int:
    """Return a number of sampler steps. Raises ValueError for one outside the limits."""
    if not str(text).strip().isdecimal() or not 1 <= int(text) <= MOST_STEPS:
        raise ValueError(f"a whole number from 1 to {MOST_STEPS} is expected")
    return int(text)


def parse_seed(text: Any) -> int:
    """Return a seed. Raises ValueError for one outside the limits."""
    if not str(text).strip().isdecimal() or not 0 <= int(text) < LAST_SEED:
        raise ValueError("a whole number of at least 0 is expected")
    return int(text)


READERS: dict[str, Callable[[Any], Any]] = {
    "prompt": str, "negative_prompt": str, "width": parse_side, "height": parse_side, "sample_steps": parse_steps,
    "scale": parse_sample_scale, "guidance_scale": parse_sample_scale, "seed": parse_seed, "sample_sampler": lambda name: str(name).lower(),
}  # fmt: skip
LETTERS = {
    "n": "negative_prompt", "w": "width", "h": "height", "s": "sample_steps", "l": "scale", "g": "guidance_scale",
    "d": "seed",
    "ss": "sample_sampler",
}  # fmt: skip
UNUSED_LETTERS = {"cn", "ctr", "rcfg", "fs"}  # sd-scripts' options for ControlNet and other kinds of models
UNUSED_KEYS = {"controlnet_image", "cfg_trunc_ratio", "renorm_cfg", "flow_shift"}


def read_prompts(file: str) -> tuple[list[SamplePrompt], list[Problem]]:
    """Return the prompts in a file, and all problems with it."""
    path, problems = Path(file), []
    kinds = {".txt": txt_rows, ".toml": toml_rows, ".json": json_rows}
    if path.suffix.lower() not in kinds:
        fix = f"Use one of: {', '.join(kinds)}"
        return [], [
            Problem("error", f"`{path.suffix}` is not an extension of prompt files", f"--sample_prompts {file}", fix)
        ]
    try:
        rows = kinds[path.suffix.lower()](path, problems)
    except ConfigError as error:
        return [], error.problems
    prompts = [prompt for where, row in rows if (prompt := as_prompt(row, where, problems))]
    if not prompts and not problems:
        problems.append(Problem("error", "the file has no prompts", f"--sample_prompts {file}"))
    return prompts, problems


Rows = list[tuple[str, dict[str, Any]]]  # (location, values under their long names)


def txt_rows(path: Path, problems: list[Problem]) -> Rows:
    """Return a row for each line, without blank lines and lines that begin with #. Raises ConfigError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem("error", f"cannot be read as UTF-8 text ({error})", str(path))]) from error
    numbered = [(f"{path} line {i}", line.strip()) for i, line in enumerate(lines, 1)]
    return [
        (where, inline_values(line, where, problems)) for where, line in numbered if line and not line.startswith("#")
    ]


def toml_rows(path: Path, problems: list[Problem]) -> Rows:
    """Return a row for each `[[prompt.subset]]`, with the values in `[prompt]` as defaults. Raises ConfigError."""
    del problems
    table = read_table(path).get("prompt")
    if not isinstance(table, dict) or not isinstance(table.get("subset"), list):
        raise ConfigError([Problem("error", "the file has no [[prompt.subset]]", str(path))])
    common = {key: value for key, value in table.items() if key != "subset"}
    rows = [{**common, **row} if isinstance(row, dict) else row for row in table["subset"]]
    return [(f"{path} prompt.subset[{i}]", row) for i, row in enumerate(rows)]


def json_rows(path: Path, problems: list[Problem]) -> Rows:
    """Return a row for each item of a list: a line with inline options, or an object. Raises ConfigError."""
    rows = read_table(path)
    if not isinstance(rows, list):
        raise ConfigError([Problem("error", "the file should hold a list", str(path))])
    places = [(f"{path} [{i}]", row) for i, row in enumerate(rows)]
    return [(where, inline_values(row, where, problems) if isinstance(row, str) else row) for where, row in places]


def split_options(line: str) -> tuple[str, list[tuple[str, str]]]:
    """Return a prompt and its inline options, as pairs of a name in lowercase and a text."""
    first, *options = re.split(r"(?:^|\s)--(?=[A-Za-z])", line)
    pairs = [(*option.split(None, 1), "") for option in options]
    return first.strip(), [(letter.lower(), text.strip()) for letter, text, *_ in pairs]


def inline_values(line: str, where: str, problems: list[Problem]) -> dict[str, Any]:
    """Return the values of a line such as `a cat --w 512 --n blurry`. Problems are added to `problems`."""
    prompt, options = split_options(line)
    values: dict[str, Any] = {"prompt": prompt}
    for letter, text in options:
        if letter in LETTERS:
            values[LETTERS[letter]] = text
        elif letter in UNUSED_LETTERS:
            problems.append(Problem("warning", f"`--{letter}` has no effect: it is for other kinds of models", where))
        else:
            known = ", ".join(f"--{name}" for name in LETTERS)
            problems.append(Problem("error", f"`--{letter}` is not an inline option", where, f"Use one of {known}"))
    return values


def as_prompt(row: Any, where: str, problems: list[Problem]) -> SamplePrompt | None:
    """Return the prompt with these values, or None if there is none. Problems are added to `problems`."""
    if not isinstance(row, Mapping):
        problems.append(Problem("error", "the item should be a text or an object", where))
        return None
    known = tuple(f.name for f in fields(SamplePrompt))
    values: dict[str, Any] = {}
    for key, value in row.items():
        if value is None:
            continue
        if key in UNUSED_KEYS:
            problems.append(Problem("warning", f"`{key}` has no effect: it is for other kinds of models", where))
        elif key not in READERS:
            problems.append(Problem("error", f"`{key}` is not known", where, nearest(key, known)))
        elif key == "seed" and str(value).strip().startswith("-"):  # sd-scripts ignores it and chooses a random seed
            what = f"`seed`: {value} is less than 0: the number of the prompt is used, so that only the word changes"
            problems.append(Problem("warning", what, where))
        else:
            try:
                values[key] = READERS[key](value)
            except (ValueError, TypeError, OverflowError) as error:
                problems.append(Problem("error", f"`{key}`: {error}", where))
    if not values.get("prompt"):
        problems.append(Problem("error", "the prompt is missing", where))
        return None
    return SamplePrompt(**values)


def prompt_json(prompt: SamplePrompt) -> str:
    """Return the JSON that is stored in a sample image."""
    return json.dumps({f.name: getattr(prompt, f.name) for f in fields(prompt)}, ensure_ascii=False)
