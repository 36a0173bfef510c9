"""Text for CLIP encoders: captions to ids with learned rows among them, chunks of 77, and rows beside a frozen table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neonym.weights import parse_weights
from neonym.words import clean, whole_word

CHUNK = 77  # ids of one pass: a start, 75 tokens, an end


class EmbeddingWithRows(nn.Module):
    """A frozen token table followed by learned rows: an id >= V reads a learned row.

    The rows are a plain list that their concepts own: the module has no trainable parameter, and the table's
    weights and its checkpoint stay what they were.
    """

    def __init__(self, frozen: nn.Embedding):
        super().__init__()
        self.frozen, self.vocab = frozen, frozen.num_embeddings
        self.rows: list[Tensor] = []  # float32 [n,W] each

    def forward(self, ids: Tensor) -> Tensor:
        """[B,L] -> [B,L,W] in the table's precision"""
        base = self.frozen(ids.clamp(max=self.vocab - 1))
        if not self.rows:
            return base
        learned = F.embedding(
            (ids - self.vocab).clamp(min=0), torch.cat(self.rows)
        )  # indexing sums gradients in any order
        return torch.where((ids >= self.vocab)[..., None], learned.to(base.dtype), base)


def nearest_tokens(table: Tensor, rows: Tensor, count: int) -> Tensor:
    """Ids of the vocabulary's words that point most nearly the same way. [V,W], [n,W] -> int64 [n,count]

    A CLIP vocabulary's last two vectors are no words: they begin and end a text.
    """
    unit = nn.functional.normalize
    return (unit(rows.float()) @ unit(table[:-2].float()).T).topk(count, dim=1).indices


@dataclass(frozen=True)
class Ids:
    """One caption for one encoder."""

    ids: Tensor  # int64 [K,77]
    learned: tuple[int, ...]  # flat positions of learned ids
    lost_rows: int  # learned ids that did not fit
    lost_tokens: int  # all ids that did not fit
    weights: Tensor  # float32 [K,77]: how much each position counts, 1 unless captions are weighted


@dataclass
class WordTokenizer:
    """A CLIP tokenizer that knows new words.

    The vocabulary is not changed: the text is cut at the words and their row ids are put in, so no helper token can
    collide with anything.
    """

    tokenizer: Any  # transformers.CLIPTokenizer
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

    def pieces(self, text: str) -> list[int]:
        """Ids of plain text, without start and end.

        CLIP splits at blanks first, so each part is looked up once only: fifty times faster than the whole text each time.
        """
        return [piece for part in text.split() for piece in self.known.get(part) or self.looked_up(part)]

    def looked_up(self, part: str) -> list[int]:
        """Ids of text without blanks."""
        backend = self.tokenizer.backend_tokenizer
        if backend.padding is not None or backend.truncation is not None:  # a pipeline that shares it has left them on
            backend.no_padding()
            backend.no_truncation()
        self.known[part] = backend.encode(part, add_special_tokens=False).ids
        return self.known[part]

    def spelled(self, ids: Tensor) -> list[list[str]]:
        """Tokens as they are read. [n,count] -> n lists"""
        found = [self.tokenizer.convert_ids_to_tokens(row) for row in ids.tolist()]
        return [[token.removesuffix("</w>") for token in row] for row in found]

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
        parts = parse_weights(text) if self.weighted else [(text, 1.0)]
        return [(token, weight) for part, weight in parts for token in self.flat(part)]

    def flat(self, text: str) -> list[int]:
        """Ids of `text` with the words' row ids in their places."""
        text = clean(text)
        if not self.words:
            return self.pieces(text)
        found, last = [], 0
        for match in whole_word(tuple(self.words)).finditer(text):
            found += self.pieces(text[last : match.start()])
            found += self.words[match.group()]
            last = match.end()
        return found + self.pieces(text[last:])

    def __call__(self, text: str) -> Ids:
        """Cut to 75 ids a chunk, each chunk with start and end, padded as the tokenizer pads."""
        flat, room = self.weighed(text), 75 * self.chunks
        kept, lost = flat[:room], flat[room:]
        ids, weights = self.laid_out([kept[first : first + 75] for first in range(0, room, 75)])
        if self.chunks > 1:
            self.mend_edges(ids, row_is_full=len(flat) >= room)
        learned = tuple(77 * (i // 75) + 1 + i % 75 for i, (token, _) in enumerate(kept) if token >= self.vocab)
        return Ids(ids, learned, sum(token >= self.vocab for token, _ in lost), len(lost), weights)

    def laid_out(self, parts: Sequence[Sequence[tuple[int, float]]]) -> tuple[Tensor, Tensor]:
        """K parts of at most 75 (id, weight), each with start and end, padded as the tokenizer pads. -> ids, weights [K,77]"""
        start, end, pad = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        rows, weights = [], []
        for part in parts:
            empty = 75 - len(part)
            rows.append([start, *(token for token, _ in part), end] + [pad] * empty)
            weights.append([1.0, *(weight for _, weight in part), 1.0] + [1.0] * empty)
        return torch.tensor(rows), torch.tensor(weights)

    def mend_edges(self, ids: Tensor, row_is_full: bool) -> None:
        """What sd-scripts makes of the ends of chunks that it cuts out of one padded row (dataset.md section 8). [K,77], in place

        It matters where padding is an id of its own and that id, or an end, stands in the caption itself: the "!" of SD 2.x.
        """
        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        if pad == end:
            return
        done = (ids[:, 75] == end) | (ids[:, 75] == pad)
        ids[done, 76] = end if row_is_full else pad  # the last id of the row
        ids[ids[:, 1] == pad, 1] = end


def join_chunks(hidden: Tensor, chunks: int) -> Tensor:
    """Hidden states of K chunks as one sequence: the first start, 75 states of each chunk, the last end.

    [B*K,77,D] -> [B,75*K+2,D]
    """
    if chunks == 1:
        return hidden
    parts = hidden.unflatten(0, (-1, chunks))  # [B,K,77,D]
    middle = parts[:, :, 1:-1].flatten(1, 2)  # [B,75*K,D]
    return torch.cat([parts[:, 0, :1], middle, parts[:, -1, -1:]], dim=1)


def clip_hidden(encoder: Any, ids: Tensor, clip_skip: int) -> Tensor:
    """The state that Stable Diffusion reads: the last layer's, or the `clip_skip`-th from the end, then the final norm.

    [B,77] -> [B,77,D]
    """
    if clip_skip == 1:
        return encoder(ids).last_hidden_state
    states = encoder(ids, output_hidden_states=True).hidden_states
    body = getattr(encoder, "text_model", encoder)  # transformers 4 keeps the layers one level down
    return body.final_layer_norm(states[-clip_skip])
