"""The text side of a model: tokenizers, frozen encoders, learned rows beside their token tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from neonym.models.encoders.clip import Keep
from neonym.models.encoders.rows import EmbeddingWithRows
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.types import Encoded, TextCond


class TextSide(ABC):
    """Captions to what the denoiser reads. A family says how its encoders are read."""

    def __init__(self, encoders: dict[str, PreTrainedModel], tokenizers: dict[str, WordTokenizer]):
        self.encoders, self.tokenizers = encoders, tokenizers
        self.tables: dict[str, EmbeddingWithRows] = {}
        for name, encoder in encoders.items():
            self.tables[name] = EmbeddingWithRows(encoder.get_input_embeddings())  # pyright: ignore[reportArgumentType]
            encoder.set_input_embeddings(self.tables[name])

    @abstractmethod
    def encode(self, text: Encoded, keep: Keep = "none") -> TextCond:
        """Return what the denoiser reads of a batch; `keep`: what emphasis leaves as it was. The only way to the rows."""

    @property
    def device(self) -> torch.device:
        """Return where the encoders are."""
        return next(iter(self.encoders.values())).device

    def vocabulary(self, encoder: str) -> Tensor:
        """Return the frozen token table of an encoder, [V,W]."""
        return self.tables[encoder].frozen.weight

    def add_word(self, token: str, rows: dict[str, Tensor]) -> None:
        """Let `token` read `rows` ({encoder: float32 [n,W]}), now and as they change.

        A word that the tokenizers have ids for already gets its rows. Raises ValueError for another one of that name.
        """
        for name, table in self.tables.items():
            tokenizer, first = self.tokenizers[name], table.vocab + sum(len(own) for own in table.rows)
            if tokenizer.words.get(token.lower()) != range(first, first + len(rows[name])):
                tokenizer.add_word(token, len(rows[name]))
            table.rows.append(rows[name])

    def remove_word(self, token: str) -> None:
        """Forget `token`, the word that was added last. Raises ValueError for another one."""
        for name, table in self.tables.items():
            self.tokenizers[name].remove_word(token)
            table.rows.pop()

    def tokenize(self, caption: str) -> Encoded:
        """Return the ids of a caption, [K,L] per encoder, its emphasis, and the words in it."""
        found = {name: tokenizer(caption) for name, tokenizer in self.tokenizers.items()}
        weighted = {n: torch.tensor(own.weights) for n, own in found.items() if self.tokenizers[n].weighted}
        words = frozenset().union(*(tokenizer.words_in(caption) for tokenizer in self.tokenizers.values()))
        return Encoded({name: torch.tensor(own.ids) for name, own in found.items()}, weighted or None, words)

    def batch(self, captions: Sequence[str]) -> Encoded:
        """Return captions as one batch on the device."""
        return stacked([self.tokenize(caption) for caption in captions], self.device)


def stacked(captions: Sequence[Encoded], device: torch.device) -> Encoded:
    """Return a batch of captions, [B,K,L] per encoder, on a device."""
    emphasis = [caption.emphasis for caption in captions if caption.emphasis]
    words = frozenset().union(*(caption.words for caption in captions))
    ids = together([caption.ids for caption in captions], device)
    return Encoded(ids, together(emphasis, device) if emphasis else None, words)


def together(rows: Sequence[dict[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """Return tensors [K,L] of several captions as [B,K,L] per encoder."""
    return {name: torch.stack([row[name] for row in rows]).to(device) for name in rows[0]}
