"""Syntax of other programs that has no meaning here: it reaches the model as plain text, with a warning."""

from __future__ import annotations

import re
from collections.abc import Iterator

NETWORK = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE)
NO_WORD = re.compile(r"(?<![\w:])embedding:[^\s,()\[\]<>]+|<(?!lora:|lyco:|hypernet:)[^\s<>]+>", re.IGNORECASE)
AND = re.compile(r"\s(AND)\s")
BY_STEPS = re.compile(r"\[[^\[\]]*:[^\[\]]*:\s*[\d.]+\s*\]")
BEHIND = re.compile(r"(?<!\\)\([^()]*\)(?:\d*\.\d+|\d+|\++|-+)(?![\w.-])|(?<![\w>])[\w>]+(?:\+{2,}|-{2,})(?![\w.-])")
MEANINGS = (  # the syntax -> what it does not do here, and what does it
    (NETWORK, "loads no LoRA", "Give --network_weights and --network_mul"),
    (NO_WORD, "names no embedding that was given", "Give --textual_inversion_embeddings, and write the word"),
    (BEHIND, "is no weight", "Write (text:1.3)"),  # InvokeAI's
    (AND, "joins no two prompts", "Write both in one prompt"),
    (BY_STEPS, "does not change the prompt between steps", "Write one of both"),
)


def other_meanings(prompt: str) -> Iterator[tuple[str, str, str]]:
    """Yield a piece of a prompt, what it does not do here, and what to do, where words are spelled plainly already."""
    for pattern, what, fix in MEANINGS:
        if match := pattern.search(prompt):
            yield match[match.lastindex or 0], what, fix
