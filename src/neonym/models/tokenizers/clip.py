"""Tokenize captions for CLIP encoders, in chunks of 77: a start, 75 ids, an end. This module does not need torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tokenizers import Tokenizer

from neonym.models.tokenizers.comfyui import in_chunks
from neonym.models.tokenizers.word_tokenizer import Chunk, Ids, Layout, WordTokenizer
from neonym.text.words import clean

CHUNK = 75  # ids in a chunk, without start and end
MOST_CHUNKS = 8  # chunks in a prompt


@dataclass(frozen=True)
class ClipTokenizer:
    """The tokenizer in a model's folder, with the ids of start, end and padding."""

    backend: Tokenizer
    start: int
    end: int
    pad: int


@dataclass
class ClipWordTokenizer(WordTokenizer):
    """A CLIP tokenizer with new words."""

    clip: ClipTokenizer = field(kw_only=True)
    cached_ids: dict[str, list[int]] = field(default_factory=dict, repr=False)  # text without spaces -> its ids

    @property
    def backend(self) -> Tokenizer:
        """The tokenizer of the vocabulary."""
        return self.clip.backend

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of start and end. Padding is one of them, or an ordinary piece."""
        return frozenset((self.clip.start, self.clip.end))

    @property
    def padding(self) -> int:
        """The id of padding."""
        return self.clip.pad

    def cleaned(self, text: str) -> str:
        """Return text as CLIP cleans it: with its encoding fixed, in lower case, with single spaces.

        transformers does not fix it, and lower case is left to the tokenizer.
        """
        return clean(text) if self.layout.repaired else " ".join(text.split())

    def token_ids(self, text: str) -> list[int]:
        """Return the ids of text without new words, without start and end.

        CLIP splits at spaces first, so the ids of each word are cached: fifty times faster than encoding whole texts.
        """
        return [token for word in text.split() for token in self.cached_ids.get(word) or self.looked_up(word)]

    def looked_up(self, word: str) -> list[int]:
        """Return the ids of text without spaces, and cache them."""
        self.cached_ids[word] = self.clip.backend.encode(word, add_special_tokens=False).ids
        return self.cached_ids[word]

    def read(self, token: int) -> str:
        """Return the text of an id, without the mark at the end of a word."""
        return str(self.clip.backend.id_to_token(token)).removesuffix("</w>")

    def plain_ids(self, text: str) -> Sequence[int]:
        """Return the ids of text as ComfyUI reads it: a new word is ordinary text, and so is the name of the padding."""
        return self.unpadded.encode(" ".join(text.split()), add_special_tokens=False).ids

    @cached_property
    def unpadded(self) -> Tokenizer:
        """The tokenizer of the vocabulary, without a token for padding."""
        pad = self.clip.pad
        if pad == self.clip.end or pad not in self.clip.backend.get_added_tokens_decoder():
            return self.clip.backend
        table = json.loads(self.clip.backend.to_str())
        table["added_tokens"] = [token for token in table["added_tokens"] if token["id"] != pad]
        return Tokenizer.from_str(json.dumps(table))

    def __call__(self, text: str, comfyui: bool = False) -> Ids:
        """Return the ids of a caption, in at most `chunks` chunks, each with start, end and padding."""
        found = super().__call__(text, comfyui)
        if self.chunks > 1:
            self.match_sdscripts_edges(found.ids, row_is_full=len(self.with_emphasis(text)) >= self.room)
        return found

    def laid_out(self, chunks: Sequence[Chunk]) -> Layout:
        """Return the ids and the emphasis, each [K,77], of K chunks of up to 75 (id, emphasis)."""
        rows, emphasis = [], []
        for chunk in chunks:
            empty = CHUNK - len(chunk)
            rows.append([self.clip.start, *(token for token, _ in chunk), self.clip.end] + [self.clip.pad] * empty)
            emphasis.append([1.0, *(weight for _, weight in chunk), 1.0] + [1.0] * empty)
        return Layout(rows, emphasis)

    def chunks_read(self, comfyui: bool) -> int:
        """Return how many chunks of a prompt the encoder can read, in ComfyUI or in diffusers."""
        return MOST_CHUNKS if comfyui and self.layout.chunks_in_comfyui else self.most_chunks

    def comfyui_chunks(self, groups: Iterable[Chunk]) -> list[Chunk]:
        """Return groups of (id, emphasis) in as many chunks of up to 75 as they need."""
        return in_chunks(groups, CHUNK)

    def match_sdscripts_edges(self, ids: list[list[int]], row_is_full: bool) -> None:
        """Change the edges of chunks [K,77], in place, to those of sd-scripts, which cuts chunks out of one padded row.

        It matters if padding has its own id and this id, or an end, is in the caption itself: the "!" of SD 2.x.
        """
        end, pad = self.clip.end, self.clip.pad
        for row in ids if pad != end else ():
            if row[CHUNK] in (end, pad):
                row[CHUNK + 1] = end if row_is_full else pad  # the last id of the padded row
            if row[1] == pad:
                row[1] = end
