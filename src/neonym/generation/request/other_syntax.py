"""Spellings of other programs that mean nothing here: they reach the model as plain text, which is said."""

from __future__ import annotations

import re
from collections.abc import Iterator

NETWORK = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE)
NO_WORD = re.compile(r"(?<![\w:])embedding:[^\s,()\[\]<>]+|<(?!lora:|lyco:|hypernet:)[^\s<>]+>", re.IGNORECASE)
AND = re.compile(r"\s(AND)\s")
BY_STEPS = re.compile(r"\[[^\[\]]*:[^\[\]]*:\s*[\d.]+\s*\]")
BEHIND = re.compile(r"(?<!\\)\([^()]*\)(?:\d*\.\d+|\d+|\++|-+)(?![\w.-])|(?<![\w>])[\w>]+(?:\+{2,}|-{2,})(?![\w.-])")
MEANT = (  # what it looks like -> what it would be elsewhere, and what there is here
    (NETWORK, "loads no LoRA", "Give --network_weights and --network_mul"),
    (NO_WORD, "names no embedding that was given", "Give --textual_inversion_embeddings, and write the word"),
    (BEHIND, "is no weight", "Write (text:1.3)"),  # InvokeAI's
    (AND, "joins no two prompts", "Say both in one prompt"),
    (BY_STEPS, "changes nothing in the middle of drawing", "Say one of both"),
)


def foreign_spellings(prompt: str) -> Iterator[tuple[str, str, str]]:
    """(the text, what it does not do, what to do) of a prompt in which words are spelled plainly already."""
    for pattern, what, fix in MEANT:
        if match := pattern.search(prompt):
            yield match[match.lastindex or 0], what, fix
