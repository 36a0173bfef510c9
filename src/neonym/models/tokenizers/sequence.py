"""Captions to ids for encoders that read one sequence, such as T5: the text, an end, padding. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenizers import Tokenizer

from neonym.models.tokenizers.word_tokenizer import WordTokenizer


@dataclass
class SequenceWordTokenizer(WordTokenizer):
    """A tokenizer of one sequence, case and all, that knows new words."""

    tokenizer: Tokenizer = field(kw_only=True)
    end: int = field(kw_only=True)
    pad: int = field(kw_only=True)

    @property
    def backend(self) -> Tokenizer:
        """Return the tokenizer of the vocabulary."""
        return self.tokenizer

    def cleaned(self, text: str) -> str:
        """Return the text with single blanks."""
        return " ".join(text.split())

    def pieces(self, text: str) -> list[int]:
        """Return the ids of plain text, without its end."""
        return self.tokenizer.encode(text.strip(), add_special_tokens=False).ids if text.strip() else []

    def read(self, piece: int) -> str:
        """Return an id as text, without the mark that begins a word."""
        return str(self.tokenizer.id_to_token(piece)).removeprefix("\u2581")

    def laid_out(self, parts: Sequence[Sequence[tuple[int, float]]]) -> tuple[list[list[int]], list[list[float]]]:
        """Return one part of (id, emphasis), with its end and padded, as ids and emphasis [1,L]."""
        rows, weights = [], []
        for part in parts[: self.most_parts]:
            empty = self.part - len(part)
            rows.append([*(token for token, _ in part), self.end] + [self.pad] * empty)
            weights.append([*(weight for _, weight in part), 1.0] + [1.0] * empty)
        return rows, weights
