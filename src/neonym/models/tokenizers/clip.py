"""Captions to ids for CLIP encoders, in chunks of 77: a start, 75 ids, an end. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from neonym.models.tokenizers.word_tokenizer import Ids, WordTokenizer
from neonym.text.words import clean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHUNK = 75  # ids of a chunk, without its start and end
MOST_CHUNKS = 8  # of a prompt


@dataclass(frozen=True)
class ClipTokenizer:
    """A tokenizer as it is in a model's folder, and the ids that begin, end and fill up a text."""

    backend: Tokenizer
    start: int
    end: int
    pad: int

    def for_pipeline(self) -> PreTrainedTokenizerFast:
        """Return a copy as diffusers' pipelines want it, which they may set as they like."""
        from transformers import PreTrainedTokenizerFast

        ends = {name: self.backend.id_to_token(i) for name, i in (("bos_token", self.start), ("eos_token", self.end))}
        copy = PreTrainedTokenizerFast(tokenizer_object=self.backend, model_max_length=CHUNK + 2, **ends)
        copy.pad_token_id = self.pad
        return copy


@dataclass
class ClipWordTokenizer(WordTokenizer):
    """A CLIP tokenizer that knows new words."""

    clip: ClipTokenizer = field(kw_only=True)
    known: dict[str, list[int]] = field(default_factory=dict, repr=False)  # ids of what stands between two blanks

    @property
    def backend(self) -> Tokenizer:
        """Return the tokenizer of the vocabulary."""
        return self.clip.backend

    def cleaned(self, text: str) -> str:
        """Return text as CLIP splits it: mended, in lower case, with single blanks."""
        return clean(text)

    def pieces(self, text: str) -> list[int]:
        """Return the ids of plain text, without start and end.

        CLIP splits at blanks first, so each part is looked up once only: fifty times faster than the whole text each time.
        """
        return [piece for part in text.split() for piece in self.known.get(part) or self.looked_up(part)]

    def looked_up(self, part: str) -> list[int]:
        """Return the ids of text without blanks."""
        self.known[part] = self.clip.backend.encode(part, add_special_tokens=False).ids
        return self.known[part]

    def read(self, piece: int) -> str:
        """Return an id as text, without the mark that ends a word."""
        return str(self.clip.backend.id_to_token(piece)).removesuffix("</w>")

    def __call__(self, text: str) -> Ids:
        """Return a caption cut to its chunks, each with start and end, padded as the tokenizer pads."""
        found = super().__call__(text)
        if self.parts > 1:
            self.mend_edges(found.ids, row_is_full=len(self.weighed(text)) >= self.room)
        return found

    def laid_out(self, parts: Sequence[Sequence[tuple[int, float]]]) -> tuple[list[list[int]], list[list[float]]]:
        """Return K chunks of at most 75 (id, emphasis), each with start and end and padded, as ids and emphasis [K,77]."""
        rows, weights = [], []
        for part in parts:
            empty = CHUNK - len(part)
            rows.append([self.clip.start, *(token for token, _ in part), self.clip.end] + [self.clip.pad] * empty)
            weights.append([1.0, *(weight for _, weight in part), 1.0] + [1.0] * empty)
        return rows, weights

    def mend_edges(self, ids: list[list[int]], row_is_full: bool) -> None:
        """Make the ends of chunks what sd-scripts makes of them, which cuts chunks out of one padded row. [K,77], in place

        It matters where padding is an id of its own and that id, or an end, stands in the caption itself: the "!" of SD 2.x.
        """
        end, pad = self.clip.end, self.clip.pad
        for row in ids if pad != end else ():
            if row[CHUNK] in (end, pad):
                row[CHUNK + 1] = end if row_is_full else pad  # the last id of the row
            if row[1] == pad:
                row[1] = end
