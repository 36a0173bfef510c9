"""Captions to ids for CLIP encoders, with learned rows among them, in chunks of 77. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from neonym.errors import ModelError
from neonym.io.memo import memoized, versions
from neonym.io.pickles import first_line
from neonym.models.loading.folder import check_tokenizer
from neonym.models.source import BUILTIN_MODELS, ModelSource
from neonym.text.emphasis import parse_emphasis
from neonym.text.words import clean, whole_word

CLIP = BUILTIN_MODELS / "emoji" / "tokenizer"  # its whole vocabulary


@dataclass(frozen=True)
class ClipTokenizer:
    """A tokenizer as it is in a model's folder, and the ids that begin, end and fill up a text."""

    backend: Tokenizer
    start: int
    end: int
    pad: int

    def for_pipeline(self) -> Any:
        """As diffusers' pipelines want it; a copy, which they may set as they like."""
        from transformers import PreTrainedTokenizerFast

        spelled = {
            name: self.backend.id_to_token(i) for name, i in (("bos_token", self.start), ("eos_token", self.end))
        }
        copy = PreTrainedTokenizerFast(tokenizer_object=self.backend, model_max_length=77, **spelled)
        copy.pad_token_id = self.pad
        return copy


@dataclass(frozen=True)
class Ids:
    """One caption for one encoder."""

    ids: list[list[int]]  # [K,77]
    learned: tuple[int, ...]  # flat positions of learned ids
    lost_rows: int  # learned ids that did not fit
    lost_tokens: int  # all ids that did not fit
    weights: list[list[float]]  # [K,77]: how much each position counts, 1 unless captions are weighted


@dataclass
class WordTokenizer:
    """A CLIP tokenizer that knows new words.

    The vocabulary is not changed: the text is cut at the words and their row ids are put in, so no helper token can
    collide with anything.
    """

    clip: ClipTokenizer
    vocab: int  # V
    chunks: int = 1  # K
    weighted: bool = False  # read (text:1.3) as a weight
    words: dict[str, range] = field(default_factory=dict)  # word in lower case -> its ids, all >= V
    known: dict[str, list[int]] = field(default_factory=dict, repr=False)  # ids of what stands between two blanks

    def add_word(self, token: str, rows: int) -> None:
        """Give `token` the next `rows` ids. Raises ValueError if it is there already."""
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

    def pieces(self, text: str) -> list[int]:
        """Ids of plain text, without start and end.

        CLIP splits at blanks first, so each part is looked up once only: fifty times faster than the whole text each time.
        """
        return [piece for part in text.split() for piece in self.known.get(part) or self.looked_up(part)]

    def looked_up(self, part: str) -> list[int]:
        """Ids of text without blanks."""
        self.known[part] = self.clip.backend.encode(part, add_special_tokens=False).ids
        return self.known[part]

    def has_piece(self, text: str) -> bool:
        """Whether the vocabulary has this very piece; one that ends a word ends in `</w>`."""
        return self.clip.backend.token_to_id(text) is not None

    def read(self, piece: int) -> str:
        """An id as text."""
        return self.clip.backend.decode([piece], skip_special_tokens=False).removesuffix("</w>")

    def spelled(self, ids: Iterable[Iterable[int]]) -> list[list[str]]:
        """Tokens as the vocabulary has them. [n,count] -> n lists"""
        return [[str(self.clip.backend.id_to_token(i)).removesuffix("</w>") for i in row] for row in ids]

    def words_in(self, text: str) -> set[str]:
        """Which of the words stand in `text`, in lower case."""
        text = clean(text)
        if not any(word in text for word in self.words):
            return set()
        return set(whole_word(tuple(self.words)).findall(text))

    def surely_fits(self, text: str, spare: int = 0) -> bool:
        """True if nothing of `text` is cut off, nor would be with `spare` more ids. Weights only make it shorter."""
        return len(self.flat(text)) + spare <= 75 * self.chunks

    def cut_off(self, text: str) -> list[int]:
        """The ids of `text` that do not fit. Raises ValueError for a weight that is no number."""
        return [token for token, _ in self.weighed(text)[75 * self.chunks :]]

    def weighed(self, text: str) -> list[tuple[int, float]]:
        """Ids of `text` and their weights. Raises ValueError for a weight that is no number."""
        parts = parse_emphasis(text) if self.weighted else [(text, 1.0)]
        return [(token, weight) for part, weight in parts for token in self.flat(part)]

    def flat(self, text: str) -> list[int]:
        """Ids of `text` with the words' row ids in their places."""
        return [token for tokens in self.whole(text) for token in tokens]

    def whole(self, text: str) -> Iterator[Sequence[int]]:
        """The ids of `text`, those of a word together, every other one alone."""
        text, last = clean(text), 0
        for match in whole_word(tuple(self.words)).finditer(text) if self.words else ():
            yield from ((piece,) for piece in self.pieces(text[last : match.start()]))
            yield self.words[match.group()]
            last = match.end()
        yield from ((piece,) for piece in self.pieces(text[last:]))

    def __call__(self, text: str) -> Ids:
        """Cut to 75 ids a chunk, each chunk with start and end, padded as the tokenizer pads."""
        flat, room = self.weighed(text), 75 * self.chunks
        kept, lost = flat[:room], flat[room:]
        ids, weights = self.laid_out([kept[first : first + 75] for first in range(0, room, 75)])
        if self.chunks > 1:
            self.mend_edges(ids, row_is_full=len(flat) >= room)
        learned = tuple(77 * (i // 75) + 1 + i % 75 for i, (token, _) in enumerate(kept) if token >= self.vocab)
        return Ids(ids, learned, sum(token >= self.vocab for token, _ in lost), len(lost), weights)

    def laid_out(self, parts: Sequence[Sequence[tuple[int, float]]]) -> tuple[list[list[int]], list[list[float]]]:
        """K parts of at most 75 (id, weight), each with start and end, padded as the tokenizer pads. -> ids, weights [K,77]"""
        rows, weights = [], []
        for part in parts:
            empty = 75 - len(part)
            rows.append([self.clip.start, *(token for token, _ in part), self.clip.end] + [self.clip.pad] * empty)
            weights.append([1.0, *(weight for _, weight in part), 1.0] + [1.0] * empty)
        return rows, weights

    def mend_edges(self, ids: list[list[int]], row_is_full: bool) -> None:
        """What sd-scripts makes of the ends of chunks that it cuts out of one padded row (dataset.md section 8). [K,77], in place

        It matters where padding is an id of its own and that id, or an end, stands in the caption itself: the "!" of SD 2.x.
        """
        end, pad = self.clip.end, self.clip.pad
        for row in ids if pad != end else ():
            if row[75] in (end, pad):
                row[76] = end if row_is_full else pad  # the last id of the row
            if row[1] == pad:
                row[1] = end


def load_tokenizers(source: ModelSource, max_token_length: int) -> dict[str, WordTokenizer]:
    """Of each text encoder. A single file has none of its own: the package's is CLIP's.

    Padding is the encoder's: with the end, or with id 0. Raises ModelError.
    """
    found = {}
    for encoder in source.encoders:
        config, unread = source.configs[encoder], encoder in source.unread_padding
        try:
            if source.file is None:
                folder = source.folder / encoder.replace("text_encoder", "tokenizer")
                check_tokenizer(folder)
                clip = read_tokenizer(folder, unread_padding=unread)
            else:
                clip = read_tokenizer(CLIP, "!" if config.get("pad_token_id") == 0 else None, unread)
            found[encoder] = WordTokenizer(clip, int(config["vocab_size"]), chunks=max_token_length // 75)
        except Exception as error:  # files that are odd make it fail in any way
            raise ModelError(f"its tokenizer cannot be read ({first_line(error)})", source.name) from error
    return found


def read_tokenizer(folder: Path, pad: str | None = None, unread_padding: bool = False) -> ClipTokenizer:
    """As transformers reads it, which takes a second to import: so what it made of the same files before is remembered.

    `unread_padding`: it is id 0, which is no token of its own. Folders call it "!" and then read the "!" of captions as
    padding. Raises whatever odd files make of it.
    """
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()}
    key = [versions("transformers", "tokenizers"), files, pad, unread_padding]
    table = memoized("tokenizers", key, lambda: as_library_reads(folder, pad, unread_padding))
    return ClipTokenizer(Tokenizer.from_str(table["tokenizer"]), table["start"], table["end"], table["pad"])


def as_library_reads(folder: Path, pad: str | None, unread_padding: bool) -> dict[str, Any]:
    """Everything of a `ClipTokenizer`, as JSON."""
    from transformers import CLIPTokenizer

    more: dict[str, Any] = {} if pad is None else {"pad_token": pad}
    whole = CLIPTokenizer.from_pretrained(folder, local_files_only=True, **more)
    table = json.loads(whole.backend_tokenizer.to_str()) | {"padding": None, "truncation": None}
    if unread_padding:
        table["added_tokens"] = [token for token in table["added_tokens"] if token["id"] != 0]
    pad_id = 0 if unread_padding else whole.pad_token_id
    return {"tokenizer": json.dumps(table), "start": whole.bos_token_id, "end": whole.eos_token_id, "pad": pad_id}
