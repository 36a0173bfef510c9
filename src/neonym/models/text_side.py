"""Define the text side of a model: tokenizers, frozen encoders, and learned rows beside their token tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from neonym.models.encoders.clip import Keep
from neonym.models.encoders.rows import EmbeddingWithRows
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.text.words import clean
from neonym.types import Encoded, TextCond


class TextSide(ABC):
    """The text side of a model, from captions to what the denoiser reads. A family implements `encode`."""

    def __init__(self, encoders: dict[str, PreTrainedModel], tokenizers: dict[str, WordTokenizer]):
        self.encoders, self.tokenizers = encoders, tokenizers
        self.tables: dict[str, EmbeddingWithRows] = {}
        for name, encoder in encoders.items():
            self.tables[name] = EmbeddingWithRows(encoder.get_input_embeddings())  # pyright: ignore[reportArgumentType]
            encoder.set_input_embeddings(self.tables[name])

    @abstractmethod
    def encode(self, text: Encoded, keep: Keep = "none") -> TextCond:
        """Return what the denoiser reads of a batch. Learned rows are read here and nowhere else.

        `keep` tells what emphasis preserves.
        """

    @property
    def device(self) -> torch.device:
        """The device of the encoders."""
        return next(iter(self.encoders.values())).device

    def vocabulary(self, encoder: str) -> Tensor:
        """Return the frozen token table of an encoder, [V,W]."""
        return self.tables[encoder].frozen.weight

    def add_word(self, token: str, rows: dict[str, Tensor]) -> None:
        """Let `token` read `rows` (encoder to float32 [n,W]), which may be changed in place later.

        The tokenizers may already have ids for exactly these rows. Raises ValueError if the token has other ids.
        """
        for name, table in self.tables.items():
            tokenizer, first = self.tokenizers[name], table.vocab + sum(len(own) for own in table.rows)
            if tokenizer.words.get(clean(token)) != range(first, first + len(rows[name])):
                tokenizer.add_word(token, len(rows[name]))
            table.rows.append(rows[name])

    def remove_word(self, token: str) -> None:
        """Remove `token`, which must be the word that was added last. Raises ValueError otherwise."""
        for name, table in self.tables.items():
            self.tokenizers[name].remove_word(token)
            table.rows.pop()

    def tokenize(self, caption: str) -> Encoded:
        """Return the ids and the emphasis of a caption, each [K,L] per encoder, and the words in it."""
        found = {name: tokenizer(caption) for name, tokenizer in self.tokenizers.items()}
        emphasis = {n: torch.tensor(own.emphasis) for n, own in found.items() if self.tokenizers[n].reads_emphasis}
        words = frozenset().union(*(own.words for own in found.values()))
        return Encoded({name: torch.tensor(own.ids) for name, own in found.items()}, emphasis or None, words)

    def empty_ids(self, encoder: str) -> Tensor:
        """Return the ids of an empty text for an encoder, [1,L]."""
        return torch.tensor(self.tokenizers[encoder]("").ids[:1], device=self.device)

    def batch(self, captions: Sequence[str]) -> Encoded:
        """Return the encoded captions as one batch on the device."""
        return stacked([self.tokenize(caption) for caption in captions], self.device)


def stacked(captions: Sequence[Encoded], device: torch.device) -> Encoded:
    """Return encoded captions as one batch, [B,K,L] per encoder, on a device."""
    emphasis = [caption.emphasis for caption in captions if caption.emphasis]
    words = frozenset().union(*(caption.words for caption in captions))
    ids = stacked_per_encoder([caption.ids for caption in captions], device)
    return Encoded(ids, stacked_per_encoder(emphasis, device) if emphasis else None, words)


def stacked_per_encoder(rows: Sequence[dict[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """Return tensors [K,L] of several captions, stacked to [B,K,L] per encoder, on a device."""
    return {name: torch.stack([row[name] for row in rows]).to(device) for name in rows[0]}
