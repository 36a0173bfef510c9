"""Lexicons: the new words that a model's captions may contain, and the rows that they read.

One loaded model can serve many words, each with a lexicon of its own, so that a word is read exactly as it would be if
it were the only one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from neonym.models.tokenizers.word_tokenizer import Layout, WordTokenizer
from neonym.text.words import clean
from neonym.types import Encoded


@dataclass
class Lexicon:
    """New words: tokenizers that know them, {encoder: tokenizer}, and the rows that their ids read."""

    tokenizers: dict[str, WordTokenizer]
    rows: dict[str, list[Tensor]] = field(default_factory=dict)  # {encoder: [n,W] each}, Rows if they are learned

    def count(self, encoder: str) -> int:
        """Return the number of rows that the words have for an encoder."""
        return sum(map(len, self.rows.get(encoder, ())))

    def ids_of(self, text: str) -> dict[str, list[int]]:
        """Return the ids of a text for each encoder with a token table, without start and end."""
        return {name: self.tokenizers[name].ids_of(text) for name in self.rows}

    def add_word(self, token: str, rows: Mapping[str, Tensor], stand_in: Mapping[str, Sequence[int]] = {}) -> None:
        """Let `token` read `rows` (encoder to float32 [n,W]), which may be changed in place later.

        An encoder without rows reads the ids of `stand_in`, or nothing. The tokenizers may already have ids for exactly
        these rows. Raises ValueError if the token has other ids.
        """
        for name, tokenizer in self.tokenizers.items():
            if name not in self.rows:  # the denoiser reads the ids itself, so that words have no rows for them
                if clean(token) not in tokenizer.words:
                    tokenizer.add_word(token, len(next(iter(rows.values()))))
                continue
            own, first = rows.get(name), tokenizer.vocab + self.count(name)
            ids = tuple(stand_in.get(name, ())) if own is None else range(first, first + len(own))
            if tokenizer.words.get(clean(token)) != ids:
                tokenizer.add_word(token, ids if own is None else len(own))
            if own is not None:
                self.rows[name].append(own)

    def remove_word(self, token: str) -> None:
        """Remove `token`, which must be the word that was added last. Raises ValueError otherwise."""
        for name, tokenizer in self.tokenizers.items():
            if isinstance(tokenizer.remove_word(token), range) and name in self.rows:
                self.rows[name].pop()

    def stand_in(self, token: str) -> dict[str, Sequence[int]]:
        """Return the ids of the vocabulary that encoders without rows of the word `token` read in its place."""
        found = {name: self.tokenizers[name].words.get(clean(token), range(0)) for name in self.rows}
        return {name: ids for name, ids in found.items() if not isinstance(ids, range)}

    def tokenize(self, caption: str, comfyui: bool = False) -> Encoded:
        """Return the ids, emphasis and masks of a caption, each [K,L] per encoder, and the words in it.

        With `comfyui`, the ids are those that ComfyUI makes of it.
        """
        found = {name: tokenizer(caption, comfyui) for name, tokenizer in self.tokenizers.items()}
        words = frozenset().union(*(own.words for own in found.values()))
        return as_tensors(found, words, [name for name in found if self.tokenizers[name].reads_emphasis])


def joined(lexicons: Sequence[Lexicon]) -> Lexicon:
    """Return a lexicon with the rows of several, one after another, for captions that are tokenized already.

    The ids of each lexicon's captions must be `shifted` by the rows that stand before its own.
    """
    first = lexicons[0]
    rows = {name: [part for lexicon in lexicons for part in lexicon.rows[name]] for name in first.rows}
    return Lexicon(first.tokenizers, rows)


def shifted(text: Encoded, offsets: Mapping[str, int], lexicon: Lexicon) -> Encoded:
    """Return a caption of `lexicon` whose learned ids are raised by the `offsets` of their encoders."""
    if not any(offsets.values()):
        return text
    ids = dict(text.ids)
    for name, offset in offsets.items():
        own = text.ids[name]
        ids[name] = torch.where(own >= lexicon.tokenizers[name].vocab, own + offset, own)
    return replace(text, ids=ids)


def as_tensors(found: Mapping[str, Layout], words: frozenset[str], weighted: Sequence[str]) -> Encoded:
    """Return the ids of encoders, the masks of those that have one, and the emphasis of those that are `weighted`."""
    ids = {name: torch.tensor(own.ids) for name, own in found.items()}
    emphasis = {name: torch.tensor(found[name].emphasis) for name in weighted}
    masks = {name: torch.tensor(own.mask) for name, own in found.items() if own.mask is not None}
    counts = {name: [sum(map(sum, own.mask))] for name, own in found.items() if own.mask is not None}
    return Encoded(ids, emphasis or None, words, masks, counts=counts)
