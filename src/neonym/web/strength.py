"""A word at another strength: its vectors scaled around nothing, as `(word:1.2)` scales what an encoder makes of it."""

from __future__ import annotations

from dataclasses import replace

from neonym import Embedding


def scaled(word: Embedding, strength: float) -> Embedding:
    """Return a word with its vectors multiplied by `strength`."""
    return word if strength == 1.0 else replace(word, vectors={n: v * strength for n, v in word.vectors.items()})
