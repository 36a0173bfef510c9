"""What a word does: the same prompts and seeds with it, with the ordinary words nearest to it, and without it.

A file whose vectors never left the vocabulary draws what an ordinary word draws: it "works" in every program, and does
nothing. That is what the comparison with the nearest words finds; the one with nothing at all would not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from neonym.generation.conditioning import conditioning
from neonym.generation.embeddings import add_embedding
from neonym.generation.images import draw
from neonym.models.family import Model
from neonym.models.text import nearest_tokens
from neonym.types import Embedding, TextCond

LEAST_CHANGE = 0.01  # of the conditioning, relative
LEAST_PIXELS = 1.0  # mean difference of pictures, in levels of 0..255


@dataclass(frozen=True)
class Effect:
    """Differences between the word and something else in its place, and the pictures."""

    nearest: list[str]  # ordinary words, one for each vector
    change_from_nearest: float  # of the conditioning: norm of the difference over the norm
    change_from_nothing: float
    pixels_from_nearest: float  # mean absolute difference of the pictures, 0..255
    pixels_from_nothing: float
    pictures: dict[str, list[Image.Image]]  # row of the sheet -> one for each seed

    @property
    def works(self) -> bool:
        """Whether the word is more than ordinary words, in the text and in the pictures."""
        return self.change_from_nearest >= LEAST_CHANGE and self.pixels_from_nearest >= LEAST_PIXELS


def measure(
    model: Model, embedding: Embedding, prompt: str, seeds: Sequence[int], steps: int, guidance: float | None
) -> Effect:
    """Draw `prompt`, in which `{}` stands for the word. Raises ModelError if the embedding does not fit."""
    word, copy = "neonymword", "neonymcopy"  # names that no prompt and no grammar can touch
    add_embedding(model, embedding, word)
    close = {name: nearest_tokens(model.vocabulary(name), rows, 1) for name, rows in embedding.vectors.items()}
    copies = {name: model.vocabulary(name)[ids[:, 0].to(model.device)].float() for name, ids in close.items()}
    add_embedding(model, Embedding(copy, copies), copy)
    said = [prompt.replace("{}", text) for text in (word, copy, "")]
    text = conditioning(model, said)
    pictures = [draw(model, [p] * len(seeds), seeds, steps=steps, guidance=guidance) for p in said]
    first = next(iter(close))
    nearest = [tokens[0] for tokens in model.tokenizers[first].spelled(close[first].tolist())]
    return Effect(
        nearest,
        change(text, 0, 1),
        change(text, 0, 2),
        difference(pictures[0], pictures[1]),
        difference(pictures[0], pictures[2]),
        {"with the word": pictures[0], f"with {' '.join(nearest)}": pictures[1], "without it": pictures[2]},
    )


def change(text: TextCond, i: int, j: int) -> float:
    """Relative distance of two prompts' conditioning."""
    sequence = text.sequence.float()
    return float((sequence[i] - sequence[j]).norm() / sequence[j].norm())


def difference(some: Sequence[Image.Image], others: Sequence[Image.Image]) -> float:
    pairs = zip(some, others, strict=True)
    return float(np.mean([np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).mean() for a, b in pairs]))
