"""Find syntax of other programs that has no meaning here: it reaches the model as plain text, with a warning."""

from __future__ import annotations

import re
from collections.abc import Iterator

NETWORK = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE)
UNKNOWN_WORD = re.compile(r"(?<![\w:])embedding:[^\s,()\[\]<>]+|<(?!lora:|lyco:|hypernet:)[^\s<>]+>", re.IGNORECASE)
AND = re.compile(r"\s(AND)\s")
BY_STEPS = re.compile(r"\[[^\[\]]*:[^\[\]]*:\s*[\d.]+\s*\]")
INVOKEAI_EMPHASIS = re.compile(
    r"(?<!\\)\([^()]*\)(?:\d*\.\d+|\d+|\++|-+)(?![\w.-])|(?<![\w>])[\w>]+(?:\+{2,}|-{2,})(?![\w.-])"
)
MEANINGS = (  # pattern, what it does not do here, what to do instead
    (NETWORK, "loads no LoRA", "Use --network_weights and --network_mul"),
    (
        UNKNOWN_WORD,
        "does not name one of the embedding files",
        "Name the file with --textual_inversion_embeddings, and write its word",
    ),
    (INVOKEAI_EMPHASIS, "does not change the emphasis", "Write (text:1.3)"),
    (AND, "does not combine two prompts", "Write both in one prompt"),
    (BY_STEPS, "does not change the prompt between steps", "Write one of the two"),
)


def find_other_syntax(prompt: str) -> Iterator[tuple[str, str, str]]:
    """Yield each piece of other programs' syntax in a prompt, what it does not do here, and what to do instead.

    The words in the prompt are in their plain spelling already.
    """
    for pattern, what, fix in MEANINGS:
        if match := pattern.search(prompt):
            yield match[match.lastindex or 0], what, fix
