"""What is said of the name of an embedding file: most programs take it for the word."""

from __future__ import annotations

import json
import re

from neonym.file_names import name_warnings
from neonym.models.source import BUILTIN_MODELS
from neonym.vocabulary import vocabulary_warning

VOCABULARY = BUILTIN_MODELS / "emoji" / "tokenizer" / "vocab.json"  # CLIP's


def warnings_of(name: str, vectors: int) -> list[str]:
    """Which programs cannot use it, and whether it is a word already."""
    vocabulary = json.loads(VOCABULARY.read_text("utf-8"))
    known = vocabulary_warning(name, vectors, vocabulary.__contains__)
    return [*name_warnings(name, vectors), *([f"the name {known}"] if known else [])]


def file_stem(token: str) -> str:
    """A token as the name of a file in a given folder, never elsewhere: a file from somebody else says the token."""
    return re.sub(r"[/\\\0]", "_", token)


def shown(text: str) -> str:
    """Text of somebody else's file on one line, without signs that a terminal obeys."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
