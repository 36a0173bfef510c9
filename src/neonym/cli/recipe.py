"""`neonym recipe FILE`: the settings that a word was learned with, as a config file."""

from __future__ import annotations

import json
from pathlib import Path

import tyro
from pydantic import BaseModel, Field

from neonym.config.flags import parse_flags
from neonym.errors import FormatError

DESCRIPTION = "Print the settings that a word was learned with, as a --config_file: add where the pictures are."


class RecipeFlags(BaseModel):
    """The flags of the recipe."""

    file: tyro.conf.Positional[Path] = Field(description="Embedding file that Neonym wrote (.safetensors).")


def main(argv: list[str], prog: str) -> int:
    flags = parse_flags(RecipeFlags, argv, prog, DESCRIPTION)
    from neonym.formats import read_embedding

    embedding = read_embedding(flags.file)
    told = embedding.metadata.get("neonym.settings")
    if told is None:
        fix = "Only .safetensors files of Neonym carry their settings"
        raise FormatError("does not say how it was made", str(flags.file), fix)
    known = embedding.metadata
    values = {
        "token_string": embedding.token,
        "init_word": known.get("neonym.init_word"),
        "num_vectors_per_token": int(known.get("neonym.vectors", "1")),
        "pretrained_model_name_or_path": known.get("neonym.base_model"),
        **json.loads(told),
    }
    print(f"# how `{embedding.token}` was learned; the text encoder had the hash {known.get('neonym.base_model_hash')}")
    print('# train_data_dir = "..."')
    for name, value in values.items():
        if value is not None:
            print(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    return 0
