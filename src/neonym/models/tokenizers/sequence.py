"""Tokenize captions for encoders that read one sequence, such as T5: text, end, padding.

This module does not need torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenizers import Tokenizer

from neonym.models.tokenizers.word_tokenizer import WordTokenizer


@dataclass
class SequenceWordTokenizer(WordTokenizer):
    """A case-sensitive tokenizer of one sequence, with new words."""

    tokenizer: Tokenizer = field(kw_only=True)
    end: int = field(kw_only=True)
    pad: int = field(kw_only=True)

    @property
    def backend(self) -> Tokenizer:
        """The tokenizer of the vocabulary."""
        return self.tokenizer

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of the end, padding and other marks of the tokenizer, and the rows of the table that it never uses."""
        marks = (i for i, token in self.tokenizer.get_added_tokens_decoder().items() if token.special)
        unused = range(self.tokenizer.get_vocab_size(), self.vocab)
        return frozenset((self.end, self.pad, *marks, *unused))

    def cleaned(self, text: str) -> str:
        """Return the text with single spaces."""
        return " ".join(text.split())

    def token_ids(self, text: str) -> list[int]:
        """Return the ids of text without new words, without the end."""
        return self.tokenizer.encode(text.strip(), add_special_tokens=False).ids if text.strip() else []

    def read(self, token: int) -> str:
        """Return the text of an id, without the mark at the start of a word."""
        return str(self.tokenizer.id_to_token(token)).removeprefix("\u2581")

    def laid_out(self, chunks: Sequence[Sequence[tuple[int, float]]]) -> tuple[list[list[int]], list[list[float]]]:
        """Return the ids and the emphasis, each [1,L], of one chunk of (id, emphasis), with end and padding."""
        rows, emphasis = [], []
        for chunk in chunks[: self.most_chunks]:
            empty = self.chunk_size - len(chunk)
            rows.append([*(token for token, _ in chunk), self.end] + [self.pad] * empty)
            emphasis.append([*(weight for _, weight in chunk), 1.0] + [1.0] * empty)
        return rows, emphasis
