"""Sheets of pictures: all of a run, or one for each pair of values on two axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neonym.config.generate import GenerateSettings
from neonym.errors import ConfigError, Problem
from neonym.formats import read_embedding
from neonym.generation.embeddings import add_embedding
from neonym.generation.jobs import Job
from neonym.generation.lines import scale
from neonym.generation.prompts import seed, steps
from neonym.generation.samplers import sampler_name
from neonym.generation.sheets import sheet
from neonym.types import Embedding
from neonym.words import clean, whole_word

if TYPE_CHECKING:
    from neonym.generation.run import Ready, Session

READ: dict[str, Callable[[str], Any]] = {  # kind of an axis -> reader of a value
    "checkpoint": str, "prompt": str, "scale": scale, "strength": float, "steps": steps, "seed": seed,
    "sampler": sampler_name,
}  # fmt: skip
OTHER_NAMES = {"guidance": "scale", "prompts": "prompt", "checkpoints": "checkpoint"}


@dataclass(frozen=True)
class Axis:
    """`kind` is checkpoint (embedding files for one word), strength (weight of the words in the prompt), or a setting."""

    kind: str
    values: tuple[Any, ...]

    def label(self, value: Any) -> str:
        said = Path(value).stem if self.kind == "checkpoint" else value
        return f"{self.kind} {said}" if self.kind != "prompt" else str(said)


def axes_of(settings: GenerateSettings) -> list[Axis]:
    """The axes that are asked for: none, one or two. Raises ConfigError."""
    problems: list[Problem] = []
    axes = [read_axis(text, flag, problems) for flag, text in (("--x", settings.x), ("--y", settings.y)) if text]
    kinds = [axis.kind for axis in axes if axis]
    if len(set(kinds)) < len(kinds):
        problems.append(Problem("error", f"both axes are `{kinds[0]}`", "--x --y"))
    if problems:
        raise ConfigError(problems)
    return [axis for axis in axes if axis]


def read_axis(text: str, flag: str, problems: list[Problem]) -> Axis | None:
    """`scale=3,5,7`; prompts are separated by bars. What is wrong goes to `problems`."""
    kind, equals, rest = text.partition("=")
    kind = OTHER_NAMES.get(kind.strip().lower(), kind.strip().lower())
    where = f"{flag} {text}"
    if not equals or kind not in READ:
        problems.append(Problem("error", "is no axis", where, f"Write KIND=A,B,C with one of {', '.join(READ)}"))
        return None
    values = []
    for part in rest.split("|" if kind == "prompt" else ","):
        try:
            values.append(READ[kind](part.strip()))
            if kind == "checkpoint":
                read_embedding(values[-1])
        except ValueError as error:
            problems.append(Problem("error", f"`{part}`: {error}", where))
        except ConfigError as error:
            problems += error.problems
    return Axis(kind, tuple(values))


def axes_sheet(axes: list[Axis], ready: Ready, session: Session) -> Path:
    """Draw one picture of the first prompt for each pair of values, and lay them on a sheet, rows for --y."""
    x = axes[0]
    y = axes[1] if len(axes) > 1 else Axis("prompt", (None,))
    stand_ins = {axis: stand_in(axis, session) for axis in axes if axis.kind == "checkpoint"}
    base = next(ready.plan.jobs(), None)
    if base is None:  # the axis has the prompts
        base = replace(ready.plan.base, seed=ready.plan.seed)
    cells = [(a, b) for b, a in product(y.values, x.values)]
    jobs = [placed(placed(base, x, a, session, stand_ins), y, b, session, stand_ins) for a, b in cells]
    pictures = [picture for _, picture in session.draw(jobs)]
    columns = len(x.values)
    rows = [(y.label(b) if b is not None else "", pictures[i * columns :][:columns]) for i, b in enumerate(y.values)]
    side = max(pictures[0].size)
    return session.save_sheet(sheet(rows, side, [x.label(a) for a in x.values]), "axes")


def stand_in(axis: Axis, session: Session) -> dict[str, tuple[str, str]]:
    """Add each file under a name of its own. -> file -> (the word that a prompt says, the name that it gets)"""
    found = {}
    for i, file in enumerate(axis.values):
        embedding = read_embedding(file)
        name = f"{embedding.token}-axis{i}"
        add_embedding(session.model, Embedding(name, embedding.vectors), name)
        found[file] = (embedding.token, name)
    return found


def placed(
    job: Job, axis: Axis, value: Any, session: Session, stand_ins: dict[Axis, dict[str, tuple[str, str]]]
) -> Job:
    """The job with one value of an axis."""
    if value is None:
        return job
    if axis.kind == "checkpoint":
        word, name = stand_ins[axis][value]
        return replace(job, prompt=replaced(job.prompt, (word,), lambda _: name))
    if axis.kind == "strength":
        words = tuple(word for t in session.model.tokenizers.values() for word in t.words)
        return replace(job, prompt=replaced(job.prompt, words, lambda word: f"({word}:{value:g})"))
    return replace(job, **{axis.kind: value})


def replaced(prompt: str, words: tuple[str, ...], by: Callable[[str], str]) -> str:
    """Every word in `prompt`, in any case, put another way."""
    return whole_word(tuple(clean(word) for word in words)).sub(lambda match: by(match.group()), clean(prompt))
