"""Run `neonym inspect FILE`, which prints what an embedding file holds, where it comes from, and what can read it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from pydantic import BaseModel, Field

from neonym.config.flags import parse_flags
from neonym.errors import ConfigError, Problem, counted
from neonym.models.registry import families, family_named

if TYPE_CHECKING:
    from neonym.api.inspect import FileFacts, WordFacts

DESCRIPTION = (
    "Show what an embedding file holds: the word, its vectors, where it comes from, and which programs read it."
)
MOST_SHOWN = 12  # names and tensors


def family_names() -> str:
    """Return the names of all families that are registered now."""
    return ", ".join(family.name for family in families())


# The hint is a function because families may be registered after this module is imported
FAMILY_FLAG = tyro.conf.arg(name="for", metavar="FAMILY", help_behavior_hint=lambda _: f"(one of {family_names()})")


class InspectFlags(BaseModel):
    """The flags of inspection."""

    file: tyro.conf.Positional[Path] = Field(description="Embedding file of any program.")
    family: Annotated[str | None, FAMILY_FLAG] = Field(
        None, description="Check that the word fits this model family; the exit code is 2 if not."
    )
    model: str | None = Field(None, description="Compare the vectors with this model's words.")
    model_version: str | None = Field(
        None, description="Which of several models of the same shapes it is, such as turbo."
    )
    offline: bool = Field(False, description="Never use the network, not even for a hub ID.")
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = Field(False, description="Print one JSON object.")


def main(argv: list[str], prog: str) -> int:
    """Print what an embedding file holds, and return the exit code: 2 if it is unreadable or does not fit."""
    flags = parse_flags(InspectFlags, argv, prog, DESCRIPTION)
    if flags.family is not None and family_named(flags.family) is None:
        raise ConfigError([Problem("error", f"`{flags.family}` is not one of {family_names()}", "--for")])
    from neonym.api.inspect import file_facts

    facts = file_facts(flags.file, flags.model, flags.offline, flags.model_version)
    if flags.as_json:
        objects = [file_object(facts) | word_object(word, flags.family) for word in facts.words]
        print(json.dumps(objects[0] if len(objects) == 1 else objects or file_object(facts), indent=1))
    else:
        print("\n\n".join([*(word_text(word, flags.family) for word in facts.words), file_text(facts)]))
    if facts.unreadable is not None:
        raise facts.unreadable
    return 0 if flags.family is None or all(word_fits(word, flags.family) for word in facts.words) else 2


def word_fits(word: WordFacts, family: str) -> bool:
    """Return whether a word fits the models of a family."""
    return family in word.fits


def file_object(facts: FileFacts) -> dict[str, Any]:
    """Return the part of the `--json` object that describes a file."""
    return {
        "layout": {"container": facts.container, "names": facts.names},
        "tensors": facts.tensors,
        "programs": facts.programs,
        "warnings": facts.warnings,
    }


def word_object(word: WordFacts, family: str | None) -> dict[str, Any]:
    """Return the part of the `--json` object that describes a word."""
    found: dict[str, Any] = {
        "token": word.token,
        "encoders": {name: asdict(encoder) for name, encoder in word.encoders.items()},
        "metadata": word.metadata,
    }
    if family is not None:
        found["fits"] = word_fits(word, family)
    if word.neighbours:
        found["model"] = {name: asdict(beside) for name, beside in word.neighbours.items()}
    return found


def word_text(word: WordFacts, family: str | None) -> str:
    """Return the text that describes a word."""
    from neonym.cli.terminal import printable

    lines = [f"word: {printable(word.token)}"]
    for name, found in word.encoders.items():
        vectors, norms = counted(found.vectors, "vector"), ", ".join(map(str, found.norms))
        lines.append(f"{name}: {vectors} of {found.width} ({found.made_for}), norms {norms}")
        beside = word.neighbours.get(name)
        if beside is not None:
            lines.append(f"  norm of the model's words: {beside.norm_of_words}")
            lines += [f"  vector {i}: nearest words {', '.join(words)}" for i, words in enumerate(beside.nearest)]
    if family is not None:
        lines.append(f"{'fits' if word_fits(word, family) else 'DOES NOT FIT'} {family}")
    lines += [f"  {printable(key)}: {printable(value)}" for key, value in sorted(word.metadata.items())]
    return "\n".join(lines)


def file_text(facts: FileFacts) -> str:
    """Return the text that describes a file."""
    from neonym.cli.terminal import printable

    lines = [f"layout: {facts.container}, {', '.join(map(printable, facts.names[:MOST_SHOWN]))}"]
    lines += [f"  {printable(name)}: {what}" for name, what in list(facts.tensors.items())[:MOST_SHOWN]]
    lines += [f"{program}: {printable(what)}" for program, what in facts.programs.items()]
    lines += [f"note: {printable(warning)}" for warning in facts.warnings]
    return "\n".join(lines)
