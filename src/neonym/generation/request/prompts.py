"""Prompt files for the sample images of a training run, as in sd-scripts: .txt with inline options, .toml, .json."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from neonym.config.generate import LAST_SEED, MOST_STEPS
from neonym.config.resolve import read_table
from neonym.errors import ConfigError, Problem, nearest

SMALLEST = 64  # pixels of a side


@dataclass(frozen=True)
class SamplePrompt:
    """One sample image. None stands for the model's or the run's own value; sizes are in pixels."""

    prompt: str
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    sample_steps: int = 30
    scale: float | None = None
    seed: int | None = None
    sample_sampler: str | None = None

    def on_grid(self, multiple: int) -> SamplePrompt:
        """Return the prompt with sides rounded down to multiples of `multiple`, at least 64, as in sd-scripts."""
        sides = {name: side for name in ("width", "height") if (side := getattr(self, name)) is not None}
        return replace(self, **{name: max(SMALLEST, side // multiple * multiple) for name, side in sides.items()})


def side(text: Any) -> int:
    """Return a number of pixels. Raises ValueError."""
    if not str(text).strip().isdecimal() or int(text) < 1:
        raise ValueError("a whole number of pixels is expected")
    return int(text)


def scale(text: Any) -> float:
    """Return a guidance scale. Raises ValueError."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is expected")
    return number


def steps(text: Any) -> int:
    """Return a number of sampler steps. Raises ValueError."""
    if not str(text).strip().isdecimal() or not 1 <= int(text) <= MOST_STEPS:
        raise ValueError(f"a whole number, 1 to {MOST_STEPS}, is expected")
    return int(text)


def seed(text: Any) -> int:
    """Return a seed. Raises ValueError."""
    if not str(text).strip().isdecimal() or not 0 <= int(text) < LAST_SEED:
        raise ValueError("a whole number from 0 is expected")
    return int(text)


READERS: dict[str, Callable[[Any], Any]] = {
    "prompt": str, "negative_prompt": str, "width": side, "height": side, "sample_steps": steps, "scale": scale,
    "seed": seed, "sample_sampler": lambda name: str(name).lower(),
}  # fmt: skip
LETTERS = {
    "n": "negative_prompt", "w": "width", "h": "height", "s": "sample_steps", "l": "scale", "d": "seed",
    "ss": "sample_sampler",
}  # fmt: skip
UNUSED_LETTERS = {"cn", "ctr", "rcfg", "fs", "g"}  # sd-scripts' options for ControlNet and for other models
UNUSED_KEYS = {"controlnet_image", "guidance_scale", "cfg_trunc_ratio", "renorm_cfg", "flow_shift"}


def read_prompts(file: str) -> tuple[list[SamplePrompt], list[Problem]]:
    """Return every prompt of a file, and everything that is wrong with it."""
    path, problems = Path(file), []
    kinds = {".txt": txt_rows, ".toml": toml_rows, ".json": json_rows}
    if path.suffix.lower() not in kinds:
        fix = f"Use one of: {', '.join(kinds)}"
        return [], [
            Problem("error", f"`{path.suffix}` is not the ending of a prompt file", f"--sample_prompts {file}", fix)
        ]
    try:
        rows = kinds[path.suffix.lower()](path, problems)
    except ConfigError as error:
        return [], error.problems
    prompts = [prompt for where, row in rows if (prompt := as_prompt(row, where, problems))]
    if not prompts and not problems:
        problems.append(Problem("error", "there is no prompt in it", f"--sample_prompts {file}"))
    return prompts, problems


Rows = list[tuple[str, dict[str, Any]]]  # (place, values under their long names)


def txt_rows(path: Path, problems: list[Problem]) -> Rows:
    """Return one prompt per line; blank lines and lines that begin with # are skipped. Raises ConfigError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem("error", f"cannot be read as UTF-8 text ({error})", str(path))]) from error
    numbered = [(f"{path} line {i}", line.strip()) for i, line in enumerate(lines, 1)]
    return [(where, inline(line, where, problems)) for where, line in numbered if line and not line.startswith("#")]


def toml_rows(path: Path, problems: list[Problem]) -> Rows:
    """Return the prompts in `[[prompt.subset]]`, with the values in `[prompt]` as defaults. Raises ConfigError."""
    del problems
    table = read_table(path).get("prompt")
    if not isinstance(table, dict) or not isinstance(table.get("subset"), list):
        raise ConfigError([Problem("error", "there is no [[prompt.subset]]", str(path))])
    common = {key: value for key, value in table.items() if key != "subset"}
    rows = [{**common, **row} if isinstance(row, dict) else row for row in table["subset"]]
    return [(f"{path} prompt.subset[{i}]", row) for i, row in enumerate(rows)]


def json_rows(path: Path, problems: list[Problem]) -> Rows:
    """Return the prompts of a list, whose items are lines with inline options or objects. Raises ConfigError."""
    rows = read_table(path)
    if not isinstance(rows, list):
        raise ConfigError([Problem("error", "should be a list", str(path))])
    places = [(f"{path} [{i}]", row) for i, row in enumerate(rows)]
    return [(where, inline(row, where, problems) if isinstance(row, str) else row) for where, row in places]


def split_options(line: str) -> tuple[str, list[tuple[str, str]]]:
    """Return a prompt and its inline options, as pairs of letters in lower case and a text."""
    first, *options = re.split(r"(?:^|\s)--(?=[A-Za-z])", line)
    pairs = [(*option.split(None, 1), "") for option in options]
    return first.strip(), [(letter.lower(), text.strip()) for letter, text, *_ in pairs]


def inline(line: str, where: str, problems: list[Problem]) -> dict[str, Any]:
    """Return the values of a line such as `a cat --w 512 --n blurry`; errors go to `problems`."""
    prompt, options = split_options(line)
    values: dict[str, Any] = {"prompt": prompt}
    for letter, text in options:
        if letter in LETTERS:
            values[LETTERS[letter]] = text
        elif letter in UNUSED_LETTERS:
            problems.append(Problem("warning", f"`--{letter}` is for other kinds of models", where))
        else:
            known = ", ".join(f"--{name}" for name in LETTERS)
            problems.append(Problem("error", f"`--{letter}` is not known", where, f"Known: {known}"))
    return values


def as_prompt(row: Any, where: str, problems: list[Problem]) -> SamplePrompt | None:
    """Return the prompt with these values, None if there is no prompt; what is wrong goes to `problems`."""
    if not isinstance(row, Mapping):
        problems.append(Problem("error", "should be a text or an object", where))
        return None
    known = tuple(f.name for f in fields(SamplePrompt))
    values: dict[str, Any] = {}
    for key, value in row.items():
        if value is None:
            continue
        if key in UNUSED_KEYS:
            problems.append(Problem("warning", f"`{key}` is for other kinds of models", where))
        elif key not in READERS:
            problems.append(Problem("error", f"`{key}` is not known", where, nearest(key, known)))
        elif key == "seed" and str(value).strip().startswith(
            "-"
        ):  # sd-scripts ignores it, and chooses a seed by chance
            what = f"`seed`: {value} is below 0: the prompt's number is its seed instead, so that only the word changes"
            problems.append(Problem("warning", what, where))
        else:
            try:
                values[key] = READERS[key](value)
            except (ValueError, TypeError, OverflowError) as error:
                problems.append(Problem("error", f"`{key}`: {error}", where))
    if not values.get("prompt"):
        problems.append(Problem("error", "has no prompt", where))
        return None
    return SamplePrompt(**values)


def dump(prompt: SamplePrompt) -> str:
    """Return the JSON that a sample image carries."""
    return json.dumps({f.name: getattr(prompt, f.name) for f in fields(prompt)}, ensure_ascii=False)
