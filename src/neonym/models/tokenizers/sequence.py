"""Tokenize captions for encoders that read one sequence: T5, and causal language models with or without a chat turn.

A template is joined with the caption before both are tokenized, so that the ids are those of the whole text. This
module does not need torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from unicodedata import normalize

from tokenizers import Tokenizer
from tokenizers.normalizers import NFC

from neonym.models.tokenizers.comfyui import typed_groups
from neonym.models.tokenizers.word_tokenizer import Chunk, Layout, Piece, WordTokenizer, padded_with

KNOWN = 1 << 15  # texts between words whose ids are cached
NO_LIMIT = 1 << 20  # ids in a sequence of an encoder without a limit


@dataclass
class SequenceWordTokenizer(WordTokenizer):
    """A case-sensitive tokenizer of one sequence, with new words."""

    tokenizer: Tokenizer = field(kw_only=True, repr=False)
    end: int | None = field(kw_only=True)  # the id after a text; None: there is none
    pad: int = field(kw_only=True)
    keeps_spaces: bool = field(kw_only=True, default=False)  # spaces and newlines are text, as in byte-level models

    def __post_init__(self) -> None:
        self.cached_ids = lru_cache(KNOWN)(self.encoded)
        self.chunk_size -= len(self.ends) + len(self.suffix_behind_padding)

    @property
    def backend(self) -> Tokenizer:
        """The tokenizer of the vocabulary."""
        return self.tokenizer

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of the end, padding and other marks of the tokenizer, and the rows of the table that it never uses."""
        marks = (i for i, token in self.tokenizer.get_added_tokens_decoder().items() if token.special)
        unused = range(self.tokenizer.get_vocab_size(), self.vocab)
        return frozenset((*self.ends, self.pad, *marks, *unused))

    @property
    def ends(self) -> tuple[int, ...]:
        """The ids after a text: one or none."""
        return () if self.end is None else (self.end,)

    @property
    def padding(self) -> int:
        """The id of padding."""
        return self.pad

    @cached_property
    def suffix_behind_padding(self) -> tuple[int, ...]:
        """The ids that stand after the padding."""
        return self.cached_ids(self.layout.template[1]) if self.layout.suffix_last else ()

    @cached_property
    def template_start(self) -> int:
        """The number of ids of the template before a caption."""
        return len(self.cached_ids(self.layout.template[0]))

    def cleaned(self, text: str) -> str:
        """Return the text as the tokenizer reads it, in which new words are searched."""
        text = text.strip().lower() if self.layout.lower_case else text
        return normalize("NFC", text) if isinstance(self.tokenizer.normalizer, NFC) else text

    def encoded(self, text: str) -> tuple[int, ...]:
        """Return the ids of text without new words."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def token_ids(self, text: str) -> list[int]:
        """Return the ids of text without new words, without template and end."""
        return list(self.cached_ids(text if self.keeps_spaces else text.strip(" \t\r\n")))

    def ids_of(self, text: str) -> list[int]:
        """Return the ids of text as it stands within a prompt: after a space, which belongs to its first id."""
        return self.token_ids(f" {self.cleaned(text).strip()}" if text.strip() else "")

    def read(self, token: int) -> str:
        """Return the text of an id, without the space at the start of a word."""
        if self.keeps_spaces:
            return self.tokenizer.decode([token], skip_special_tokens=False).strip() or repr(
                self.tokenizer.id_to_token(token)
            )
        return str(self.tokenizer.id_to_token(token)).removeprefix("\u2581")

    def surely_fits(self, text: str, spare: int = 0) -> bool:
        """Return whether all of `text` fits with its template, even with `spare` more ids."""
        return len(self.sequence([(text, 1.0)])) + spare <= self.chunk_size

    def with_emphasis(self, text: str) -> Chunk:
        """Return the ids of `text` in its template, with their emphasis."""
        return self.sequence(self.pieces(text))

    def sequence(self, pieces: Iterable[Piece]) -> Chunk:
        """Return the ids of a caption in its template, with their emphasis. The end and padding are not included."""
        texts = [(self.cleaned(text), weight) for text, weight in pieces]
        if not any(text for text, _ in texts):
            texts = [(self.layout.empty, 1.0)]
        parts = [(part, weight) for text, weight in texts for part in self.parts(text)]
        before, after = self.layout.template
        parts = with_text(parts, before, 0)
        parts = parts if self.layout.suffix_last else with_text(parts, after, -1)
        weigh = self.layout.brackets == "weigh"
        ids = [(self.token_ids(part) if isinstance(part, str) else part, weight) for part, weight in parts]
        return [(token, weight if weigh else 1.0) for tokens, weight in ids for token in tokens]

    def in_chunks(self, pieces: Iterable[tuple[Sequence[str], float]]) -> list[Chunk]:
        """Return a prompt as the one chunk that is read and, if it is too long, what is cut off, as a second chunk."""
        whole = self.sequence((" ".join(texts), weight) for texts, weight in pieces)
        return [whole[: self.chunk_size], whole[self.chunk_size :]] if len(whole) > self.chunk_size else [whole]

    @property
    def differs_in_comfyui(self) -> bool:
        """Whether ComfyUI makes other ids of a caption: it changes the spaces of a new word, or padding that is read."""
        return self.keeps_spaces or self.pads_otherwise_in_comfyui

    @property
    def pads_otherwise_in_comfyui(self) -> bool:
        """Whether ComfyUI pads a caption to another length with ids that are read."""
        return self.layout.pads_otherwise_in_comfyui(self.chunk_size + len(self.ends) + len(self.suffix_behind_padding))

    def plain_ids(self, text: str) -> Sequence[int]:
        """Return the ids of text as ComfyUI reads it, in which a new word is ordinary text."""
        return self.token_ids(text)

    def as_comfyui(self, text: str) -> Chunk:
        """Return the ids that ComfyUI makes of `text`, with the names of files in the place of words.

        Whatever does not keep spaces has the same ids in both.
        """
        if not self.keeps_spaces:
            return self.with_emphasis(text)
        weighted = self.reads_emphasis and self.knows_emphasis
        (chunk,) = self.comfyui_chunks(typed_groups(self, self.cleaned(text), weighted, escape=not weighted))
        return chunk

    def laid_out(self, chunks: Sequence[Chunk]) -> Layout:
        """Return one sequence [1,L] of one chunk of (id, emphasis), with end and padding."""
        full = self.chunk_size + len(self.ends) if self.layout.full_length else 0
        return self.padded(chunks[0], full, self.suffix_behind_padding)

    def comfyui_chunks(self, groups: Iterable[Chunk]) -> list[Chunk]:
        """Return groups of (id, emphasis) as one chunk, which is not cut off. Nothing at all becomes padding that is read."""
        chunk = [pair for group in groups for pair in group]
        return [chunk or [(self.pad, 1.0)] * (self.end is None)]

    def laid_out_as_comfyui(self, chunks: Sequence[Chunk]) -> Layout:
        """Return one sequence [1,L] of one chunk of (id, emphasis), as long as ComfyUI makes it."""
        return padded_with(self.padded(chunks[0], self.layout.comfyui_length), self.layout.comfyui_zeros)

    def padded(self, chunk: Chunk, length: int, behind: Sequence[int] = ()) -> Layout:
        """Return (id, emphasis) with an end and padding up to `length`, then the ids `behind` it, each [1,L].

        Nothing at all becomes id 0, which is masked.
        """
        text = [*chunk, *((token, 1.0) for token in self.ends)]
        padding = [(self.pad, 1.0)] * (length - len(text))
        if not (text or padding or behind):
            return Layout([[0]], [[1.0]], [[False]])
        row, mask = [*text, *padding], [*[True] * len(text), *[False] * len(padding)]
        if self.layout.padded == "left":
            row, mask = [*padding, *text], mask[::-1]
        row, mask = [*row, *((token, 1.0) for token in behind)], [*mask, *[True] * len(behind)]
        ids = [self.read_as(token) for token, _ in row]
        return Layout([ids], [[weight for _, weight in row]], [mask] if self.layout.masked else None)

    def read_as(self, token: int) -> int:
        """Return the id that is read for an id: another one if learned words have no rows here."""
        return token if self.layout.word_id is None or token < self.vocab else self.layout.word_id


def with_text(
    parts: Sequence[tuple[str | Sequence[int], float]], text: str, at: int
) -> list[tuple[str | Sequence[int], float]]:
    """Return the parts of a caption with text of the template joined to the first one (`at` 0) or the last one (-1)."""
    found = list(parts)
    part, weight = found[at]
    found[at] = (f"{part}{text}" if at else f"{text}{part}", weight)
    return found
