"""What is said of the name of an embedding file: most programs take it for the word."""

from __future__ import annotations

import json
import re

from neonym.file_names import name_warnings
from neonym.models.source import BUILTIN_MODELS
from neonym.words import clean

VOCABULARY = BUILTIN_MODELS / "emoji" / "tokenizer" / "vocab.json"  # CLIP's


def warnings_of(name: str, vectors: int) -> list[str]:
    """Which programs cannot use it, and whether it is a word already."""
    found = name_warnings(name, vectors)
    if f"{clean(name)}</w>" in json.loads(VOCABULARY.read_text("utf-8")):
        found.append(
            "it is an ordinary word: diffusers and sd-scripts refuse it, other programs replace the word by it"
        )
    return found


def file_stem(token: str) -> str:
    """A token as the name of a file in a given folder, never elsewhere: a file from somebody else says the token."""
    return re.sub(r"[/\\\0]", "_", token)


def shown(text: str) -> str:
    """Text of somebody else's file on one line, without signs that a terminal obeys."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
