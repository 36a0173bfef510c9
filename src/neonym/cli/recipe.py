"""`neonym recipe FILE`: the settings that a word was learned with, as a config file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tyro
from pydantic import BaseModel, Field

from neonym.config.flags import parse_flags
from neonym.config.run import RunConfig, fields_of
from neonym.errors import FormatError

DESCRIPTION = "Print the settings that a word was learned with, as a --config_file: add where the pictures are."


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
    print(
        f"# how `{shown(embedding.token)}` was learned; the text encoder had the hash {shown(str(known.get('neonym.base_model_hash')))}"
    )
    print('# train_data_dir = "..."  # or dataset_config: what it said of pictures and captions is not known')
    for name, value in values.items():
        if value is not None:
            print(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    return 0


def settings_of(known: dict[str, str], file: Path) -> dict[str, Any]:
    """What the metadata tells of the settings, if it is only that. Raises FormatError."""
    told = known.get("neonym.settings")
    if told is None:
        raise FormatError("does not say how it was made", str(file), "Only files that Neonym wrote do")
    try:
        found = json.loads(told)
    except (ValueError, RecursionError) as error:
        raise FormatError("its settings cannot be read", str(file), "Was it changed by another program?") from error
    names = {name for _, name, _ in fields_of(RunConfig)}
    if not isinstance(found, dict) or not set(found) <= names or not all(map(plain, found.values())):
        raise FormatError("what it says of its settings is none", str(file), "Was it changed by another program?")
    return found


def plain(value: Any) -> bool:
    """Whether it is written alike in JSON and in a config file."""
    return all(map(plain, value)) if isinstance(value, list) else value is None or isinstance(value, str | int | float)
