"""Warn about names of embedding files that are already in CLIP's vocabulary.

The vocabulary consists of tokens: `cat</w>` is the whole word, `cat` is the start of a longer word. Tokens are a
problem for programs that add a name to their tokenizer, because they look it up unchanged. Whole words are a problem
for programs that search for the name in the text of a prompt.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

# The complete vocabulary, which all CLIP models share
CLIP = Path(__file__).parent.parent / "models/builtin/emoji/tokenizer/vocab.json"


@lru_cache(maxsize=1)
def clip_tokens() -> frozenset[str]:
    """Return all tokens of CLIP's vocabulary."""
    return frozenset(json.loads(CLIP.read_text("utf-8")))


def clip_has(token: str) -> bool:
    """Return whether CLIP's vocabulary has exactly this token."""
    return token in clip_tokens()


def vocabulary_warning(name: str, vectors: int, has: Callable[[str], bool]) -> str | None:
    """Return the problem that some programs have with a word of this name and number of vectors, or None.

    `has` tells whether the vocabulary has a token.
    """
    numbers = range(1, vectors)
    looked_up = {  # program -> what it adds to its tokenizer for the vectors
        "diffusers": [name, f"{name}_1"],
        "sd-scripts": [name, *(f"{name}{i}" for i in numbers)],
        "SD.Next": [name, *(f"{name}_{i}" for i in numbers)],
    }
    affected = [program for program, tokens in looked_up.items() if any(map(has, tokens))]
    refusing = " and ".join(program for program in affected if program != "SD.Next")
    effects = [f"{refusing} refuse{'s' * (' and ' not in refusing)} it"] if refusing else []
    effects += ["SD.Next never inserts it"] if "SD.Next" in affected else []
    if has(f"{name.lower()}</w>"):
        what = (
            "is an ordinary word: AUTOMATIC1111, Forge and stable-diffusion.cpp insert the embedding "
            "wherever a prompt has it"
        )
        return "; ".join([what, *effects])
    return f"is a token of CLIP's vocabulary: {', '.join(effects)}" if effects else None
