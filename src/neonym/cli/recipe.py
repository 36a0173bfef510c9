"""Run `neonym recipe FILE`, which prints the settings that a word was learned with as a config file."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Any

import tyro
from pydantic import BaseModel, Field

from neonym.config.dataset import DatasetSpec, SubsetSpec
from neonym.config.flags import parse_flags
from neonym.config.resolve import tomllib
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from neonym.errors import FormatError
from neonym.io.json import is_text

DESCRIPTION = "Print the settings that a word was learned with as a --config_file, to which you add the image folder."
DEEPEST = 4  # nested lists
CHANGED = "Check whether another program changed the file"


class RecipeFlags(BaseModel):
    """The flags of the recipe."""

    file: tyro.conf.Positional[Path] = Field(description="Embedding file written by Neonym.")


def main(argv: list[str], prog: str) -> int:
    """Print the settings of a word and return the exit code."""
    flags = parse_flags(RecipeFlags, argv, prog, DESCRIPTION)
    from neonym.cli.terminal import printable
    from neonym.formats import read_embedding

    embedding = read_embedding(flags.file)
    known = embedding.metadata
    values = {
        "token_string": embedding.token,
        "init_word": known.get("neonym.init_word"),
        "num_vectors_per_token": len(next(iter(embedding.vectors.values()))),
        "pretrained_model_name_or_path": known.get("neonym.base_model"),
        **settings_in(known, flags.file),
    }
    tables = datasets_in(known, flags.file)
    model_hash = printable(str(known.get("neonym.base_model_hash")))
    lines = [
        f"# how `{printable(embedding.token)}` was learned; hash of the text encoder: {model_hash}",
        '# train_data_dir = "..."' if tables is None else '# dataset_config = "..."  # a file such as the one below',
        *as_lines(values),
    ]
    datasets = [rows for table in tables or () if (rows := dataset_lines(table, str(embedding.token)))]
    check_toml([lines, *datasets], flags.file)
    lines += [line for rows in datasets for line in ("", *(f"# {row}".rstrip() for row in rows))]
    print("\n".join(lines))
    return 0


def check_toml(documents: list[list[str]], file: Path) -> None:
    """Raise FormatError for lines that are not valid TOML."""
    for lines in documents:
        try:
            tomllib.loads("\n".join(lines))
        except (ValueError, RecursionError) as error:
            what = f"the recorded settings cannot be written as a config file ({str(error)[:120]})"
            raise FormatError(what, str(file), CHANGED) from error


def dataset_lines(table: dict[str, Any], token: str) -> list[str]:
    """Return the lines of a dataset file for a single word, or none if no subset has images of it."""
    own = [subset for subset in table["subsets"] if subset.get("concept") in (None, token)]
    shared = as_lines({name: value for name, value in table.items() if name != "subsets"})
    rows = [line for subset in own for line in ("", "[[datasets.subsets]]", *as_lines({**subset, "concept": None}))]
    return ["[[datasets]]", *shared, *rows] if own else []


def as_lines(table: dict[str, Any]) -> list[str]:
    """Return the values of a table as lines of TOML, without those that are None."""
    return [f"{name} = {as_toml(value)}" for name, value in table.items() if value is not None]


def as_toml(value: Any) -> str:
    """Return a value as TOML, which differs from JSON in unprintable characters and numbers that are not finite."""
    if isinstance(value, float) and not isfinite(value):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(char if char.isprintable() else toml_escape(char) for char in quoted)


def toml_escape(char: str) -> str:
    """Return the TOML escape sequence of a character."""
    return f"\\u{ord(char):04X}" if ord(char) < 1 << 16 else f"\\U{ord(char):08X}"


def settings_in(known: dict[str, str], file: Path) -> dict[str, Any]:
    """Return the settings recorded in the metadata of a file. Raises FormatError if they are missing or invalid."""
    text = known.get("neonym.settings")
    if text is None:
        raise FormatError("the file does not record how the word was learned", str(file), "Only Neonym's files do")
    found = parse_metadata(text, file)
    if not is_table(found, {name for _, name, _ in fields_of(RunConfig)}):
        raise FormatError("the recorded settings are invalid", str(file), CHANGED)
    return found


def datasets_in(known: dict[str, str], file: Path) -> list[dict[str, Any]] | None:
    """Return the datasets recorded in the metadata of a file, or None if there are none.

    Raises FormatError if they are invalid.
    """
    text = known.get("neonym.datasets")
    found = None if text is None else parse_metadata(text, file)
    if found is not None and not (isinstance(found, list) and all(map(is_dataset, found))):
        raise FormatError("the recorded datasets are invalid", str(file), CHANGED)
    return found


def parse_metadata(text: str, file: Path) -> Any:
    """Return the JSON value in a text of a file's metadata. Raises FormatError if it cannot be parsed."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError("the recorded settings cannot be parsed", str(file), CHANGED) from error


def is_dataset(table: Any) -> bool:
    """Return whether a value is a dataset: a table of plain values with a list of subsets."""
    subsets = table.get("subsets") if isinstance(table, dict) else None
    values = {name: value for name, value in table.items() if name != "subsets"} if subsets else None
    return (
        isinstance(subsets, list)
        and is_table(values, set(DatasetSpec.model_fields))
        and all(is_table(subset, set(SubsetSpec.model_fields)) for subset in subsets)
    )


def is_table(value: Any, names: set[str]) -> bool:
    """Return whether a value is a table of plain values with keys from `names`."""
    return isinstance(value, dict) and set(value) <= names and all(map(is_toml_value, value.values()))


def is_toml_value(value: Any, depth: int = 0) -> bool:
    """Return whether a config file can hold a value."""
    if isinstance(value, list):
        return depth < DEEPEST and all(part is not None and is_toml_value(part, depth + 1) for part in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value.bit_length() < 64  # the range that TOML guarantees
    if isinstance(value, str):
        return is_text(value)
    return value is None or isinstance(value, bool) or (isinstance(value, float) and isfinite(value))
