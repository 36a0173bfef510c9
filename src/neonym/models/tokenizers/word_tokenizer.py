"""Tokenize text that contains new words. This module does not need torch.

The vocabulary is not changed: the text is split at the words, and their row ids are inserted, so there are no helper
tokens that could collide with anything.

A token is an entry of the vocabulary, or one vector of a new word; its id is its number. A piece is a stretch of text
with one emphasis. A chunk is what an encoder reads at once: up to 75 ids for CLIP.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace

from tokenizers import Tokenizer

from neonym.models.family import SequenceSpec
from neonym.text.emphasis import parse_emphasis
from neonym.text.words import clean, whole_word

Chunk = list[tuple[int, float]]  # (id, emphasis)
Piece = tuple[str, float]  # (text, emphasis)


@dataclass(frozen=True)
class Layout:
    """The ids of K chunks with start, end and padding, as an encoder reads them."""

    ids: list[list[int]]  # [K,L]
    emphasis: list[list[float]]  # [K,L], 1 where there is none
    mask: list[list[bool]] | None = None  # [K,L], False for padding; None: the encoder is told of none


def padded_with(layout: Layout, pad: int | None) -> Layout:
    """Return a layout with another id of padding, or unchanged if there is none or if padding is read like text."""
    if pad is None or layout.mask is None:
        return layout
    rows = zip(layout.ids, layout.mask, strict=True)
    ids = [[token if is_text else pad for token, is_text in zip(*row, strict=True)] for row in rows]
    return replace(layout, ids=ids)


@dataclass(frozen=True)
class Ids(Layout):
    """The ids of one caption for one encoder, and the new words in it."""

    learned: tuple[int, ...] = ()  # positions of learned ids in the flattened `ids`
    words: frozenset[str] = frozenset()  # the new words in the caption, in lower case, whether or not they fit


@dataclass
class WordTokenizer(ABC):
    """A tokenizer with new words, whose row ids follow those of its vocabulary."""

    vocab: int  # V: rows of the encoder's token table
    chunk_size: int  # ids in a chunk, without its start and end
    chunks: int = 1  # K: chunks that a caption may have
    most_chunks: int = 1  # chunks that the encoder can read
    reads_emphasis: bool = False  # read (text:1.3) as emphasis
    # Word in lower case -> its ids: a range from V on or, for a word without rows, a tuple of the vocabulary's
    words: dict[str, Sequence[int]] = field(default_factory=dict)
    layout: SequenceSpec = field(kw_only=True, default=SequenceSpec())

    @property
    @abstractmethod
    def backend(self) -> Tokenizer:
        """The tokenizer of the vocabulary."""

    @property
    @abstractmethod
    def special_ids(self) -> frozenset[int]:
        """The ids of the vocabulary that are not text, such as its end."""

    @property
    @abstractmethod
    def padding(self) -> int:
        """The id of padding."""

    @abstractmethod
    def token_ids(self, text: str) -> list[int]:
        """Return the ids of text without new words, without start and end."""

    @abstractmethod
    def cleaned(self, text: str) -> str:
        """Return text in the form that the tokenizer splits, in which new words are searched in any case."""

    @abstractmethod
    def laid_out(self, chunks: Sequence[Chunk]) -> Layout:
        """Return K chunks of (id, emphasis) with start, end and padding."""

    @abstractmethod
    def comfyui_chunks(self, groups: Iterable[Chunk]) -> list[Chunk]:
        """Return groups of (id, emphasis), each of a text or a name, split into chunks as in ComfyUI."""

    def laid_out_as_comfyui(self, chunks: Sequence[Chunk]) -> Layout:
        """Return K chunks of (id, emphasis) with the start, end and padding that ComfyUI gives them."""
        return self.laid_out(chunks)

    @abstractmethod
    def read(self, token: int) -> str:
        """Return the text of an id."""

    @property
    def knows_emphasis(self) -> bool:
        """Whether brackets in captions and prompts can be emphasis. In a chat turn, they are text."""
        return self.layout.brackets != "text"

    @property
    def differs_in_comfyui(self) -> bool:
        """Whether ComfyUI makes other ids of a caption, padding that is read included."""
        return False

    @property
    def pads_otherwise_in_comfyui(self) -> bool:
        """Whether ComfyUI pads a caption to another length with ids that are read."""
        return False

    def plain_ids(self, text: str) -> Sequence[int]:
        """Return the ids of text as ComfyUI reads it, in which a new word is ordinary text."""
        return self.token_ids(self.cleaned(text))

    def add_word(self, token: str, ids: int | Sequence[int]) -> None:
        """Give `token` the next ids, as many as it has rows; or these ids of the vocabulary, if it has no rows.

        Raises ValueError if it already has ids.
        """
        word = clean(token)
        if word in self.words:
            raise ValueError(f"the word {token!r} already exists")
        start = max((own.stop for own in self.words.values() if isinstance(own, range)), default=self.vocab)
        self.words[word] = range(start, start + ids) if isinstance(ids, int) else tuple(ids)

    def with_words(self, words: Mapping[str, Sequence[int]]) -> WordTokenizer:
        """Return a copy with these new words in lower case, with their ids, and no others."""
        found = copy(self)  # what it caches are texts without new words
        found.words = dict(words)
        return found

    def remove_word(self, token: str) -> Sequence[int]:
        """Remove `token`, which must be the word added last so that other ids stay valid, and return its ids.

        Raises ValueError otherwise.
        """
        word = clean(token)
        if word != next(reversed(self.words), None):
            raise ValueError(f"the word {token!r} is not the one added last")
        return self.words.pop(word)

    def ids_of(self, text: str) -> list[int]:
        """Return the ids of text as its user wrote it, without start and end; none if the tokenizer ignores it all."""
        return self.token_ids(self.cleaned(text))

    def has_token(self, text: str) -> bool:
        """Return whether the vocabulary has exactly this token."""
        return self.backend.token_to_id(text) is not None

    def spelled(self, ids: Iterable[Iterable[int]]) -> list[list[str]]:
        """Return the texts of a table of ids, in lists of the same shape."""
        return [[self.read(i) for i in row] for row in ids]

    def words_in(self, text: str) -> set[str]:
        """Return the new words in `text`, in lower case."""
        text = in_lower_case(self.cleaned(text))
        if not any(word in text for word in self.words):
            return set()
        return set(whole_word(tuple(self.words)).findall(text))

    @property
    def room(self) -> int:
        """The number of ids of a caption that fit."""
        return self.chunk_size * self.chunks

    def chunks_read(self, comfyui: bool) -> int:
        """Return how many chunks of a prompt the encoder can read, in ComfyUI or in diffusers."""
        del comfyui
        return self.most_chunks

    def surely_fits(self, text: str, spare: int = 0) -> bool:
        """Return whether all of `text` fits, even with `spare` more ids. Brackets of emphasis count as text."""
        return len(self.flat(text)) + spare <= self.room

    def cut_off(self, text: str) -> list[int]:
        """Return the ids of `text` that do not fit. Raises ValueError if an emphasis is not a number."""
        return [token for token, _ in self.with_emphasis(text)[self.room :]]

    def pieces(self, text: str) -> list[Piece]:
        """Return the pieces of `text` with their emphasis. Raises ValueError if an emphasis is not a number."""
        return parse_emphasis(text) if self.reads_emphasis and self.knows_emphasis else [(text, 1.0)]

    def with_emphasis(self, text: str) -> Chunk:
        """Return the ids of `text` with their emphasis. Raises ValueError if an emphasis is not a number."""
        return [(token, weight) for piece, weight in self.pieces(text) for token in self.flat(piece)]

    def as_comfyui(self, text: str) -> Chunk:
        """Return the ids that ComfyUI makes of `text`, which are others only in byte-level vocabularies."""
        return self.with_emphasis(text)

    def flat(self, text: str) -> list[int]:
        """Return the ids of `text`, with the row ids of new words."""
        return [token for tokens in self.whole(text) for token in tokens]

    def whole(self, text: str) -> Iterator[Sequence[int]]:
        """Yield the ids of `text`: those of a new word together, every other id on its own."""
        for part in self.parts(self.cleaned(text)):
            if isinstance(part, str):
                yield from ((token,) for token in self.token_ids(part))
            else:
                yield part

    def parts(self, text: str) -> Iterator[str | Sequence[int]]:
        """Yield cleaned text in parts: texts, of which the first and the last may be empty, and the ids of words."""
        last = 0
        for match in whole_word(tuple(self.words)).finditer(in_lower_case(text)) if self.words else ():
            yield text[last : match.start()]
            yield self.words[match.group()]
            last = match.end()
        yield text[last:]

    def in_chunks(self, pieces: Iterable[tuple[Sequence[str], float]]) -> list[Chunk]:
        """Return a prompt split into chunks.

        Each piece has one emphasis and one or more texts; a chunk ends between two texts of a piece. A word whose
        vectors do not fit into the rest of a chunk moves to the next chunk, as in AUTOMATIC1111. A word longer than a
        chunk is split.
        """
        chunks: list[Chunk] = [[]]
        for texts, weight in pieces:
            for i, text in enumerate(texts):
                if i:
                    chunks.append([])
                for tokens in self.whole(text) if text else ():
                    if len(chunks[-1]) + min(len(tokens), self.chunk_size) > self.chunk_size:
                        chunks.append([])
                    for token in tokens:
                        if len(chunks[-1]) == self.chunk_size:
                            chunks.append([])
                        chunks[-1].append((token, weight))
        return chunks

    def __call__(self, text: str, comfyui: bool = False) -> Ids:
        """Return the ids of a caption, in at most `chunks` chunks. Raises ValueError if an emphasis is not a number.

        With `comfyui`, they are those that ComfyUI makes of it.
        """
        flat = self.as_comfyui(text) if comfyui else self.with_emphasis(text)
        kept, read = flat[: self.room], {token for token, _ in flat}
        starts = range(0, self.room, self.chunk_size)
        chunks = [kept[start : start + self.chunk_size] for start in starts]
        laid = self.laid_out_as_comfyui(chunks) if comfyui and self.pads_otherwise_in_comfyui else self.laid_out(chunks)
        laid = padded_with(laid, self.layout.comfyui_zeros) if comfyui else laid
        learned = tuple(i for i, token in enumerate(token for row in laid.ids for token in row) if token >= self.vocab)
        without_rows = {word for word, own in self.words.items() if not isinstance(own, range)}
        words = {word for word, own in self.words.items() if isinstance(own, range) and own.start in read}
        words |= without_rows & self.words_in(text) if without_rows else set()
        return Ids(laid.ids, laid.emphasis, laid.mask, learned, frozenset(words))


def in_lower_case(text: str) -> str:
    """Return text in lower case, with every character at its place.

    A character whose lower case is longer stays as it is, such as the Turkish capital I with a dot.
    """
    lower = text.lower()
    return lower if len(lower) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
