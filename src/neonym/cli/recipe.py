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

DESCRIPTION = "Print the settings that a word was learned with, as a --config_file: add where the images are."
DEEPEST = 4  # lists in lists
CHANGED = "Was it changed by another program?"


class RecipeFlags(BaseModel):
    """The flags of the recipe."""

    file: tyro.conf.Positional[Path] = Field(description="Embedding file that Neonym wrote.")


def main(argv: list[str], prog: str) -> int:
    flags = parse_flags(RecipeFlags, argv, prog, DESCRIPTION)
    from neonym.cli.names import shown
    from neonym.formats import read_embedding

    embedding = read_embedding(flags.file)
    known = embedding.metadata
    values = {
        "token_string": embedding.token,
        "init_word": known.get("neonym.init_word"),
        "num_vectors_per_token": len(next(iter(embedding.vectors.values()))),
        "pretrained_model_name_or_path": known.get("neonym.base_model"),
        **settings_of(known, flags.file),
    }
    tables = datasets_of(known, flags.file)
    lines = [
        f"# how `{shown(embedding.token)}` was learned; the text encoder had the hash {shown(str(known.get('neonym.base_model_hash')))}",
        '# train_data_dir = "..."' if tables is None else '# dataset_config = "..."  # a file such as the one below',
        *as_lines(values),
    ]
    datasets = [told for table in tables or () if (told := dataset_lines(table, str(embedding.token)))]
    check_toml([lines, *datasets], flags.file)
    lines += [line for told in datasets for line in ("", *(f"# {line}".rstrip() for line in told))]
    print("\n".join(lines))
    return 0


def check_toml(documents: list[list[str]], file: Path) -> None:
    """Raise FormatError for lines that are not valid TOML, which no config file can hold."""
    for lines in documents:
        try:
            tomllib.loads("\n".join(lines))
        except (ValueError, RecursionError) as error:
            what = f"what it says of its settings is none that a config file can hold ({str(error)[:120]})"
            raise FormatError(what, str(file), CHANGED) from error


def dataset_lines(table: dict[str, Any], token: str) -> list[str]:
    """Return the lines of a data-set file for one word alone, or none if no subset has images of it."""
    own = [subset for subset in table["subsets"] if subset.get("concept") in (None, token)]
    shared = as_lines({name: value for name, value in table.items() if name != "subsets"})
    rows = [line for subset in own for line in ("", "[[datasets.subsets]]", *as_lines({**subset, "concept": None}))]
    return ["[[datasets]]", *shared, *rows] if own else []


def as_lines(table: dict[str, Any]) -> list[str]:
    """Return the values of a table as TOML, one line each. Values that are None are left out."""
    return [f"{name} = {as_toml(value)}" for name, value in table.items() if value is not None]


def as_toml(value: Any) -> str:
    """Return a value as TOML. It differs from JSON in numbers that are not finite and unprintable characters."""
    if isinstance(value, float) and not isfinite(value):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(sign if sign.isprintable() else escaped(sign) for sign in quoted)


def escaped(sign: str) -> str:
    return f"\\u{ord(sign):04X}" if ord(sign) < 1 << 16 else f"\\U{ord(sign):08X}"


def settings_of(known: dict[str, str], file: Path) -> dict[str, Any]:
    """Return the settings in the metadata of a file. Raise FormatError if there are none, or anything else in them."""
    told = known.get("neonym.settings")
    if told is None:
        raise FormatError("does not say how it was made", str(file), "Only files that Neonym wrote do")
    found = read_json(told, file)
    if not is_table(found, {name for _, name, _ in fields_of(RunConfig)}):
        raise FormatError("what it says of its settings is none", str(file), CHANGED)
    return found


def datasets_of(known: dict[str, str], file: Path) -> list[dict[str, Any]] | None:
    """Return the data sets in the metadata of a file, or None if there are none.

    Raise FormatError if they hold anything else.
    """
    told = known.get("neonym.datasets")
    found = None if told is None else read_json(told, file)
    if found is not None and not (isinstance(found, list) and all(map(is_dataset, found))):
        raise FormatError("what it says of its data sets is none", str(file), CHANGED)
    return found


def read_json(text: str, file: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError("its settings cannot be read", str(file), CHANGED) from error


def is_dataset(table: Any) -> bool:
    subsets = table.get("subsets") if isinstance(table, dict) else None
    values = {name: value for name, value in table.items() if name != "subsets"} if subsets else None
    return (
        isinstance(subsets, list)
        and is_table(values, set(DatasetSpec.model_fields))
        and all(is_table(subset, set(SubsetSpec.model_fields)) for subset in subsets)
    )


def is_table(value: Any, names: set[str]) -> bool:
    """Return whether a value is a table of plain values whose keys are all among `names`."""
    return isinstance(value, dict) and set(value) <= names and all(map(plain, value.values()))


def plain(value: Any, depth: int = 0) -> bool:
    """Return whether a config file can hold a value."""
    if isinstance(value, list):
        return depth < DEEPEST and all(part is not None and plain(part, depth + 1) for part in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value.bit_length() < 64  # what TOML promises to hold
    if isinstance(value, str):
        return is_text(value)
    return value is None or isinstance(value, bool) or (isinstance(value, float) and isfinite(value))
