"""`neonym inspect FILE`: what an embedding file holds."""

from __future__ import annotations

import json
from typing import Annotated

import tyro
from pydantic import BaseModel, Field

from neonym.config.commandline import parse_flags

DESCRIPTION = "Say what an embedding file holds: the word, its vectors, where it comes from."
WIDTHS = {
    768: "Stable Diffusion 1.x",
    1024: "Stable Diffusion 2.x",
    1280: "SDXL (its second encoder)",
    128: "the built-in model",
}


class InspectFlags(BaseModel):
    """The flags of inspection."""

    file: tyro.conf.Positional[str] = Field(description="The embedding file.")
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = Field(False, description="Print one JSON object.")


def main(argv: list[str], prog: str) -> int:
    flags = parse_flags(InspectFlags, argv, prog, DESCRIPTION)
    from neonym.formats import read_embedding

    embedding = read_embedding(flags.file)
    encoders = {
        name: {
            "vectors": rows.shape[0],
            "width": rows.shape[1],
            "made_for": WIDTHS.get(rows.shape[1], "unknown"),
            "norms": [round(float(n), 4) for n in rows.norm(dim=1)],
        }
        for name, rows in embedding.vectors.items()
    }
    if flags.as_json:
        print(json.dumps({"token": embedding.token, "encoders": encoders, "metadata": embedding.metadata}, indent=1))
        return 0
    print(f"word: {embedding.token}")
    for name, facts in encoders.items():
        print(f"{name}: {facts['vectors']} vectors of {facts['width']} ({facts['made_for']}), norms {facts['norms']}")
    for key, value in sorted(embedding.metadata.items()):
        print(f"  {key}: {value}")
    return 0
