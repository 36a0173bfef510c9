"""Tokenize text that contains new words. This module does not need torch.

The vocabulary is not changed: the text is split at the words, and their row ids are inserted, so there are no helper
tokens that could collide with anything.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tokenizers import Tokenizer

from neonym.text.emphasis import parse_emphasis
from neonym.text.words import clean, whole_word

Part = list[tuple[int, float]]  # (id, emphasis)


@dataclass(frozen=True)
class Ids:
    """The ids of one caption for one encoder."""

    ids: list[list[int]]  # [K,L]
    learned: tuple[int, ...]  # positions of learned ids in the flattened `ids`
    lost_rows: int  # learned ids that did not fit
    lost_tokens: int  # all ids that did not fit
    emphasis: list[list[float]]  # [K,L], 1 where there is none


@dataclass
class WordTokenizer(ABC):
    """A tokenizer with new words, whose row ids follow those of its vocabulary."""

    vocab: int  # V: rows of the encoder's token table
    part: int  # ids in a part of a text, without its start and end
    parts: int = 1  # K: parts that a caption may have
    most_parts: int = 1  # parts that the encoder can read
    reads_emphasis: bool = False  # read (text:1.3) as emphasis
    words: dict[str, range] = field(default_factory=dict)  # word in lower case -> its ids, all from V on

    @property
    @abstractmethod
    def backend(self) -> Tokenizer:
        """The tokenizer of the vocabulary."""

    @abstractmethod
    def pieces(self, text: str) -> list[int]:
        """Return the ids of text without new words, without start and end."""

    @abstractmethod
    def cleaned(self, text: str) -> str:
        """Return text in the form that the tokenizer splits, in which new words are searched in any case."""

    @abstractmethod
    def laid_out(self, parts: Sequence[Sequence[tuple[int, float]]]) -> tuple[list[list[int]], list[list[float]]]:
        """Return the ids and the emphasis of K parts, each [K,L], with start, end and padding."""

    @abstractmethod
    def read(self, piece: int) -> str:
        """Return the text of an id."""

    def add_word(self, token: str, rows: int) -> None:
        """Give `token` the next `rows` ids. Raises ValueError if it already has ids."""
        word = clean(token)
        if word in self.words:
            raise ValueError(f"the word {token!r} already exists")
        start = max((ids.stop for ids in self.words.values()), default=self.vocab)
        self.words[word] = range(start, start + rows)

    def remove_word(self, token: str) -> None:
        """Remove `token`, which must be the word added last so that other ids stay valid.

        Raises ValueError otherwise.
        """
        word = clean(token)
        if word != next(reversed(self.words), None):
            raise ValueError(f"the word {token!r} is not the one added last")
        del self.words[word]

    def has_piece(self, text: str) -> bool:
        """Return whether the vocabulary has exactly this piece."""
        return self.backend.token_to_id(text) is not None

    def spelled(self, ids: Iterable[Iterable[int]]) -> list[list[str]]:
        """Return the texts of a table of ids, in lists of the same shape."""
        return [[self.read(i) for i in row] for row in ids]

    def words_in(self, text: str) -> set[str]:
        """Return the new words in `text`, in lower case."""
        text = clean(text)
        if not any(word in text for word in self.words):
            return set()
        return set(whole_word(tuple(self.words)).findall(text))

    @property
    def room(self) -> int:
        """The number of ids of a caption that fit."""
        return self.part * self.parts

    def surely_fits(self, text: str, spare: int = 0) -> bool:
        """Return whether all of `text` fits, even with `spare` more ids. Brackets of emphasis count as text."""
        return len(self.flat(text)) + spare <= self.room

    def cut_off(self, text: str) -> list[int]:
        """Return the ids of `text` that do not fit. Raises ValueError if an emphasis is not a number."""
        return [token for token, _ in self.with_emphasis(text)[self.room :]]

    def with_emphasis(self, text: str) -> Part:
        """Return the ids of `text` with their emphasis. Raises ValueError if an emphasis is not a number."""
        parts = parse_emphasis(text) if self.reads_emphasis else [(text, 1.0)]
        return [(token, weight) for part, weight in parts for token in self.flat(part)]

    def flat(self, text: str) -> list[int]:
        """Return the ids of `text`, with the row ids of new words."""
        return [token for tokens in self.whole(text) for token in tokens]

    def whole(self, text: str) -> Iterator[Sequence[int]]:
        """Yield the ids of `text`: those of a new word together, every other id on its own."""
        text, last = self.cleaned(text), 0
        for match in whole_word(tuple(self.words)).finditer(text) if self.words else ():
            yield from ((piece,) for piece in self.pieces(text[last : match.start()]))
            yield self.words[match.group().lower()]
            last = match.end()
        yield from ((piece,) for piece in self.pieces(text[last:]))

    def in_parts(self, pieces: Iterable[tuple[Sequence[str], float]]) -> list[Part]:
        """Return a prompt split into parts.

        Each piece has one emphasis and one or more texts; a part ends between two texts of a piece. A word whose
        vectors do not fit into the rest of a part moves to the next part, as in AUTOMATIC1111. A word longer than a
        part is split.
        """
        parts: list[Part] = [[]]
        for texts, weight in pieces:
            for i, text in enumerate(texts):
                if i:
                    parts.append([])
                for tokens in self.whole(text) if text else ():
                    if len(parts[-1]) + min(len(tokens), self.part) > self.part:
                        parts.append([])
                    for token in tokens:
                        if len(parts[-1]) == self.part:
                            parts.append([])
                        parts[-1].append((token, weight))
        return parts

    def __call__(self, text: str) -> Ids:
        """Return the ids of a caption, truncated to `parts` parts. Raises ValueError if an emphasis is not a number."""
        flat = self.with_emphasis(text)
        kept, lost = flat[: self.room], flat[self.room :]
        ids, emphasis = self.laid_out([kept[first : first + self.part] for first in range(0, self.room, self.part)])
        learned = tuple(i for i, token in enumerate(token for row in ids for token in row) if token >= self.vocab)
        return Ids(ids, learned, sum(token >= self.vocab for token, _ in lost), len(lost), emphasis)
