"""Define the text side of a model: tokenizers, frozen encoders, and learned rows beside their token tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from neonym.io.transfer import picked, sent
from neonym.models.encoders.clip import Keep
from neonym.models.encoders.known_texts import KnownTexts
from neonym.models.encoders.rows import EmbeddingWithRows
from neonym.models.encoders.sequence import in_groups, interpolated, read_up_to, t5_states
from neonym.models.lexicon import Lexicon
from neonym.models.loading.vocabulary_spread import every, spread_in
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.types import Encoded, TextCond


class TextSide(ABC):
    """The text side of a model, from captions to what the denoiser reads. A family implements `encode`."""

    is_cut_to_length = True  # whether `encode` reads how long captions are, where encoders have masks

    def __init__(self, encoders: dict[str, PreTrainedModel], tokenizers: dict[str, WordTokenizer]):
        self.encoders = encoders
        self.adapters: dict[str, nn.Module] = {}  # networks between the encoders and the denoiser
        self.comfyui = False  # captions have the ids that ComfyUI makes of them
        self.tables: dict[str, EmbeddingWithRows] = {}
        self._empty_ids: dict[tuple[str, int], Tensor] = {}  # on the device
        for name, encoder in encoders.items():
            self.tables[name] = EmbeddingWithRows(encoder.get_input_embeddings())  # pyright: ignore[reportArgumentType]
            encoder.set_input_embeddings(self.tables[name])
        self._use(self.new_lexicon(tokenizers))

    @abstractmethod
    def encode(self, text: Encoded, keep: Keep = "none") -> TextCond:
        """Return what the denoiser reads of a batch. Learned rows are read here and nowhere else.

        `keep` tells what emphasis preserves.
        """

    @property
    def tokenizers(self) -> dict[str, WordTokenizer]:
        """The tokenizer of each encoder, with the words of the lexicon in use."""
        return self.lexicon.tokenizers

    @property
    def device(self) -> torch.device:
        """The device of the encoders."""
        return next(iter(self.encoders.values())).device

    def vocabulary(self, encoder: str) -> Tensor:
        """Return the frozen token table of an encoder, [V,W]."""
        return self.tables[encoder].frozen.weight

    def spread(self, encoder: str) -> float | None:
        """Return the spread of an encoder's vocabulary, measured on a sample of it; None if it has none."""
        table = self.vocabulary(encoder)
        return spread_in(table[:: every(len(table))].float().cpu().numpy())

    @contextmanager
    def using(self, lexicon: Lexicon) -> Iterator[None]:
        """Read texts with the words of a lexicon, and no others, for the duration of the block."""
        before = self.lexicon
        self._use(lexicon)
        try:
            yield
        finally:
            self._use(before)

    def _use(self, lexicon: Lexicon) -> None:
        """Read texts with the words of a lexicon from now on."""
        self.lexicon = lexicon
        for name, table in self.tables.items():
            table.rows = lexicon.rows[name]

    def new_lexicon(self, tokenizers: Mapping[str, WordTokenizer]) -> Lexicon:
        """Return a lexicon for this model without rows. The tokenizers may already have ids for the words to come."""
        return Lexicon(dict(tokenizers), {name: [] for name in self.tables})

    def add_word(self, token: str, rows: Mapping[str, Tensor], stand_in: Mapping[str, Sequence[int]] = {}) -> None:
        """Let `token` read `rows`, as `Lexicon.add_word` does."""
        self.lexicon.add_word(token, rows, stand_in)

    def remove_word(self, token: str) -> None:
        """Remove `token`, which must be the word that was added last. Raises ValueError otherwise."""
        self.lexicon.remove_word(token)

    def remember(self, encoder: str) -> None:
        """Let an encoder that learns nothing read each text only once, see `KnownTexts`."""
        known = KnownTexts(self.encoders[encoder].forward, self.tables[encoder].vocab)
        self.encoders[encoder].forward = known  # pyright: ignore[reportAttributeAccessIssue]

    def tokenize(self, caption: str, comfyui: bool | None = None) -> Encoded:
        """Return the ids, emphasis and masks of a caption, each [K,L] per encoder, and the words in it.

        With `comfyui` (default: `self.comfyui`), the ids are those that ComfyUI makes of it.
        """
        return self.lexicon.tokenize(caption, self.comfyui if comfyui is None else comfyui)

    def empty_ids(self, encoder: str, length: int) -> Tensor:
        """Return the ids of an empty text for an encoder, with padding up to `length`, [1,L]."""
        if (encoder, length) not in self._empty_ids:
            tokenizer = self.tokenizers[encoder]
            ids = torch.tensor(tokenizer("").ids[:1])[:, :length]
            padded = pad(ids, (0, length - ids.shape[1]), value=tokenizer.padding)
            self._empty_ids[encoder, length] = sent(padded, self.device)
        return self._empty_ids[encoder, length]

    def unmasked_t5(self, name: str, text: Encoded) -> tuple[Tensor, Tensor | None]:
        """Return the states [B,L,D] of a T5 encoder that reads its padding, and which of them there are, bool [B,L].

        The latter is None if all texts have the same length. As in ComfyUI, emphasis moves the states away from those
        of an empty text.
        """
        ids, encoder = text.ids[name][:, 0], self.encoders[name]  # [B,L]
        lengths = text.lengths.get(name, [ids.shape[1]] * len(ids))
        emphasis = (text.emphasis or {}).get(name)

        def states_of(which: list[int], length: int) -> Tensor:
            states = t5_states(encoder, picked(ids, which)[:, :length])  # [b,l,D]
            if emphasis is None:
                return states
            return interpolated(
                states, t5_states(encoder, self.empty_ids(name, length)), picked(emphasis, which)[:, 0, :length]
            )

        states = in_groups(lengths, ids.device, states_of, masked=False)
        return states, None if len(set(lengths)) == 1 else read_up_to(lengths, ids.device)

    def batch(self, captions: Sequence[str]) -> Encoded:
        """Return the encoded captions as one batch on the device."""
        return self.stacked([self.tokenize(caption) for caption in captions], self.device)

    def stacked(self, captions: Sequence[Encoded], device: torch.device) -> Encoded:
        """Return encoded captions as one batch, [B,K,L] per encoder, on a device.

        Sequences of unlike length are padded to the longest of them. Their own lengths are kept.
        """

        def stack(rows: Sequence[dict[str, Tensor] | None], fill: float | None = None) -> dict[str, Tensor]:
            return {
                name: sent(self.padded_stack(name, [own[name] for own in rows if own], fill), device)
                for name in rows[0] or ()
            }

        emphasis = stack([caption.emphasis for caption in captions if caption.emphasis] or [None], 1.0)
        words = frozenset().union(*(caption.words for caption in captions))
        masks = stack([caption.masks for caption in captions], False)
        lengths = {name: [caption.ids[name].shape[1] for caption in captions] for name in captions[0].ids}
        masked = masks if self.is_cut_to_length else ()
        counts = {name: [count for caption in captions for count in caption.counts[name]] for name in masked}
        return Encoded(stack([caption.ids for caption in captions]), emphasis or None, words, masks, lengths, counts)

    def padded_stack(self, name: str, rows: Sequence[Tensor], fill: float | None = None) -> Tensor:
        """Return tensors [K,L] of one encoder stacked to [B,K,L]. Padding is `fill`, or the id of the tokenizer."""
        longest, tokenizer = max(row.shape[1] for row in rows), self.tokenizers[name]
        left, fill = tokenizer.layout.padded == "left", tokenizer.padding if fill is None else fill
        missing = [longest - row.shape[1] for row in rows]
        return torch.stack(
            [pad(row, (n, 0) if left else (0, n), value=fill) for row, n in zip(rows, missing, strict=True)]
        )
