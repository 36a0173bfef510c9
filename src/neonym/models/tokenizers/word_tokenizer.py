"""A tokenizer that knows new words. Needs no torch.

The vocabulary is not changed: the text is cut at the words and their row ids are put in, so no helper token can collide
with anything.
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
    """One caption for one encoder."""

    ids: list[list[int]]  # [K,L]
    learned: tuple[int, ...]  # flat positions of learned ids
    lost_rows: int  # learned ids that did not fit
    lost_tokens: int  # all ids that did not fit
    weights: list[list[float]]  # [K,L]: the emphasis of each position, 1 unless captions have emphasis


@dataclass
class WordTokenizer(ABC):
    """A tokenizer with the words whose rows stand behind its vocabulary."""

    vocab: int  # V: rows of the encoder's token table
    part: int  # ids of a part of a text, without those that begin and end it
    parts: int = 1  # K: parts that a caption may have
    most_parts: int = 1  # parts that the encoder takes at most
    weighted: bool = False  # read (text:1.3) as emphasis
    words: dict[str, range] = field(default_factory=dict)  # word in lower case -> its ids, all >= V

    @property
    @abstractmethod
    def backend(self) -> Tokenizer:
        """Return the tokenizer of the vocabulary."""

    @abstractmethod
    def pieces(self, text: str) -> list[int]:
        """Return the ids of plain text, without those that begin and end it."""

    @abstractmethod
    def cleaned(self, text: str) -> str:
        """Return text as the tokenizer splits it, in which words are found in any case."""

    @abstractmethod
    def laid_out(self, parts: Sequence[Sequence[tuple[int, float]]]) -> tuple[list[list[int]], list[list[float]]]:
        """Return K parts, each with start and end and padded, as ids and emphasis [K,L]."""

    @abstractmethod
    def read(self, piece: int) -> str:
        """Return an id as text."""

    def add_word(self, token: str, rows: int) -> None:
        """Give `token` the next `rows` ids. Raises ValueError if it has ids already."""
        word = clean(token)
        if word in self.words:
            raise ValueError(f"the word {token!r} is there already")
        start = max((ids.stop for ids in self.words.values()), default=self.vocab)
        self.words[word] = range(start, start + rows)

    def remove_word(self, token: str) -> None:
        """Forget `token`, the word that was added last: the ids of all others stay. Raises ValueError for another one."""
        word = clean(token)
        if word != next(reversed(self.words), None):
            raise ValueError(f"the word {token!r} is not the last one")
        del self.words[word]

    def has_piece(self, text: str) -> bool:
        """Return whether the vocabulary has this very piece."""
        return self.backend.token_to_id(text) is not None

    def spelled(self, ids: Iterable[Iterable[int]]) -> list[list[str]]:
        """Return tokens as the vocabulary has them: [n,count] -> n lists."""
        return [[self.read(i) for i in row] for row in ids]

    def words_in(self, text: str) -> set[str]:
        """Return which of the words stand in `text`, in lower case."""
        text = clean(text)
        if not any(word in text for word in self.words):
            return set()
        return set(whole_word(tuple(self.words)).findall(text))

    @property
    def room(self) -> int:
        """Return how many ids of a caption fit."""
        return self.part * self.parts

    def surely_fits(self, text: str, spare: int = 0) -> bool:
        """Return True if nothing of `text` is cut off, nor would be with `spare` more ids. Emphasis only makes it shorter."""
        return len(self.flat(text)) + spare <= self.room

    def cut_off(self, text: str) -> list[int]:
        """Return the ids of `text` that do not fit. Raises ValueError for an emphasis that is no number."""
        return [token for token, _ in self.weighed(text)[self.room :]]

    def weighed(self, text: str) -> Part:
        """Return the ids of `text` and their emphasis. Raises ValueError for an emphasis that is no number."""
        parts = parse_emphasis(text) if self.weighted else [(text, 1.0)]
        return [(token, weight) for part, weight in parts for token in self.flat(part)]

    def flat(self, text: str) -> list[int]:
        """Return the ids of `text` with the words' row ids in their places."""
        return [token for tokens in self.whole(text) for token in tokens]

    def whole(self, text: str) -> Iterator[Sequence[int]]:
        """Yield the ids of `text`, those of a word together, every other one alone."""
        text, last = self.cleaned(text), 0
        for match in whole_word(tuple(self.words)).finditer(text) if self.words else ():
            yield from ((piece,) for piece in self.pieces(text[last : match.start()]))
            yield self.words[match.group().lower()]
            last = match.end()
        yield from ((piece,) for piece in self.pieces(text[last:]))

    def in_parts(self, pieces: Iterable[tuple[Sequence[str], float]]) -> list[Part]:
        """Return a prompt in parts; between the texts of a piece, which has one emphasis, a part ends early.

        A word whose vectors do not fit in what is left of a part moves whole to the next, as in AUTOMATIC1111; one of more
        than a part is cut.
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
        """Return a caption cut to the parts that it may have. Raises ValueError for an emphasis that is no number."""
        flat = self.weighed(text)
        kept, lost = flat[: self.room], flat[self.room :]
        ids, weights = self.laid_out([kept[first : first + self.part] for first in range(0, self.room, self.part)])
        learned = tuple(i for i, token in enumerate(token for row in ids for token in row) if token >= self.vocab)
        return Ids(ids, learned, sum(token >= self.vocab for token, _ in lost), len(lost), weights)
