"""Warn about names of embedding files that CLIP's vocabulary has already.

A vocabulary has pieces: `cat</w>` is the whole word, `cat` is the beginning of a longer one. Programs that add a name
to their tokenizer look it up as it is, so pieces are a problem for them; for programs that look for the name in the
text of a prompt, whole words are.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

CLIP = Path(__file__).parent.parent / "models/builtin/emoji/tokenizer/vocab.json"  # the whole vocabulary of every CLIP


@lru_cache(maxsize=1)
def clip_pieces() -> frozenset[str]:
    return frozenset(json.loads(CLIP.read_text("utf-8")))


def clip_has(piece: str) -> bool:
    """Return whether CLIP's vocabulary has exactly this piece."""
    return piece in clip_pieces()


def vocabulary_warning(name: str, vectors: int, has: Callable[[str], bool]) -> str | None:
    """Return what is wrong with a word of this name and number of vectors in some programs, or None.

    `has` returns whether the vocabulary has a piece.
    """
    numbers = range(1, vectors)
    looked_up = {  # program -> what it adds to its tokenizer for the vectors
        "diffusers": [name, f"{name}_1"],
        "sd-scripts": [name, *(f"{name}{i}" for i in numbers)],
        "SD.Next": [name, *(f"{name}_{i}" for i in numbers)],
    }
    stumbling = [program for program, pieces in looked_up.items() if any(map(has, pieces))]
    refusing = " and ".join(program for program in stumbling if program != "SD.Next")
    said = [f"{refusing} refuse{'s' * (' and ' not in refusing)} it"] if refusing else []
    said += ["SD.Next never puts it in"] if "SD.Next" in stumbling else []
    if has(f"{name.lower()}</w>"):
        what = (
            "is an ordinary word: AUTOMATIC1111, Forge and stable-diffusion.cpp put the file wherever a prompt has it"
        )
        return "; ".join([what, *said])
    return f"is a piece of CLIP's vocabulary: {', '.join(said)}" if said else None
