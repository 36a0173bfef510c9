"""Measure the worth of a word: how much better the frozen model predicts images with it than with its init word.

Every measurement is paired: the same noised latents are predicted with several texts that differ in one word only. Let
e_0 be the prediction with the init word, e_w the one with the learned word, y the target and d = e_w - e_0. Then

    gain = |y - e_0|^2 - |y - e_w|^2 = 2 <y - e_0, d> - |d|^2

and a change that is s times as large would gain 2 s <y - e_0, d> - s^2 |d|^2, which is highest at
s = beta = <y - e_0, d> / |d|^2. So a word that has converged has beta = 1; a word that has only begun to move has a
beta far above 1, however certain its tiny gain is; and a word that does harm has a beta below 1/2.

Gains are relative to what the model knows: how much its predictions change when one known word replaces another. In the
same way, whether the word overpowers the rest of a prompt is measured by how much the predictions still change when
other words beside it change, relative to how much they change beside known words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from neonym.models.model import Model
from neonym.text.words import clean, whole_word
from neonym.types import Batch, Noisy

LEARNED_WORD, START_WORD = "neonymlearnedword", "neonymstartword"  # in no caption and no vocabulary
COMMON = (
    "dog", "cat", "horse", "bird", "fish", "car", "train", "boat", "house", "tree", "flower", "hat",
    "shoe", "cake", "apple", "guitar", "clock", "chair", "ball", "book", "key", "star", "heart", "bottle",
)  # fmt: skip
KNOWN = 8  # how many of the common words are used: those that the model reads most differently from each other
CONTRASTS = (  # pairs of prompts that differ in words other than the one in braces
    ("a {} on a red background", "a {} on a blue background"),
    ("a sticker of a {}", "a 3d render of a {}"),
    ("a {} and a dog", "a {} and a car"),
    ("a {} on a black background", "a {} on a white background"),
    ("a flat drawing of a {}", "a 3d render of a {}"),
    ("a {} on a yellow background", "a {} on a purple background"),
    ("a {} and a house", "a {} and a flower"),
    ("a green {}", "a pink {}"),
)
ALONE = "a {}"  # a caption that holds nothing but the word
CONTRAST_EVERY = 4  # one sample in so many also measures what the gain is compared with
PREDICTIONS = 3, 5  # how many predictions each sample takes, and how many more each of the chosen ones

Rows = dict[str, Tensor]  # {encoder: float32 [n,W]}


@dataclass(frozen=True)
class CaptionedBatch:
    """Noised images of one size, and their captions, which contain the word."""

    batch: Batch
    captions: list[str]  # [B]


@dataclass(frozen=True)
class Worth:
    """The worth of a word. Losses are means over the elements of the latents and over samples."""

    loss_before: float  # with the init word
    loss_after: float
    loss_alone: float  # with the init word and nothing else of the captions
    share: float  # the gain, divided by the mean squared change from one known word to another
    reach: float  # the gain, divided by the highest one in its direction: 1 - (1 - 1 / beta)^2
    standard_errors: float  # the gain in units of its standard error
    obedience: float  # mean squared change by other words beside it, divided by that beside known words
    contrasts: int = len(CONTRASTS)  # how many samples the obedience was measured on
    known_words: tuple[str, ...] = ()


def count_predictions(batches: Sequence[CaptionedBatch]) -> int:
    """Return how many predictions of a batch `measure_worth` makes."""
    each, more = PREDICTIONS
    return sum(each + more * bool(chosen) for chosen in contrast_samples(batches))


def contrast_samples(batches: Sequence[CaptionedBatch]) -> list[list[int]]:
    """Return the indices of the samples that also measure contrasts, for each batch: one in four of all samples."""
    found, first = [], 0
    for batch in batches:
        count = len(batch.captions)
        found.append([i for i in range(count) if (first + i) % CONTRAST_EVERY == CONTRAST_EVERY // 2])
        first += count
    return found


def measure_worth(
    model: Model,
    batches: Sequence[CaptionedBatch],
    word: str,
    start: Rows,
    learned: Rows,
    watch: Callable[[], None] = lambda: None,
) -> Worth:
    """Return the worth of the rows `learned` compared with the rows `start` for `word` in the captions of `batches`.

    At least eight samples are needed. `watch` is called before every prediction and may raise an exception to stop.
    """
    words, stand_in = {LEARNED_WORD: learned, START_WORD: start}, model.text.lexicon.stand_in(word)
    with torch.no_grad(), temporary_words(model, words, stand_in):
        known, gains, changes = known_words(model), [], []
        for captioned, chosen in zip(batches, contrast_samples(batches), strict=True):
            compared = PairedPredictions(model, captioned.batch, watch)
            gains.append(compared.gains(captioned.captions, word))
            if chosen:
                changes.append(compared.changes(chosen, known, sum(map(len, changes))))
    return worth_from_samples(torch.cat(gains), torch.cat(changes), known)


class PairedPredictions:
    """The predictions for the same noised latents with different texts."""

    def __init__(self, model: Model, batch: Batch, watch: Callable[[], None]):
        self.model, self.batch, self.watch = model, batch, watch
        self.noisy: Noisy = model.noised(batch)
        self.weight = torch.ones_like(self.noisy.x_t[:, :1]) if batch.mask is None else batch.mask  # [B,1,h,w]
        self.all = list(range(len(batch.keys)))

    def gains(self, captions: Sequence[str], word: str) -> Tensor:
        """Return |y - e_0|^2, <y - e_0, d>, |d|^2 and |y - e|^2 for every sample, float64 [B,4].

        Here e is the prediction with the init word and nothing else of the caption.
        """
        before = self.predicted([replace_word(caption, word, START_WORD) for caption in captions])
        change = self.predicted([replace_word(caption, word, LEARNED_WORD) for caption in captions]) - before
        target = self.noisy.target.float()
        error, alone = target - before, target - self.predicted([ALONE.format(START_WORD)] * len(captions))
        pairs = ((error, error), (error, change), (change, change), (alone, alone))
        return torch.stack([self.inner(a, b) for a, b in pairs], 1)

    def changes(self, chosen: list[int], known: Sequence[str], first: int) -> Tensor:
        """Return three squared changes for each of the chosen samples, float64 [F,3].

        They are the change from one known word to another, the change by other words beside a known word, and the
        change by other words beside the learned one. `first` is the number of samples chosen from earlier batches.
        """
        which = range(first, first + len(chosen))
        here, there = zip(*[CONTRASTS[i % len(CONTRASTS)] for i in which], strict=True)
        some, others = ([known[(i + k) % len(known)] for i in which] for k in (0, KNOWN // 2))

        def predicted(prompts: Sequence[str], words: Sequence[str]) -> Tensor:
            return self.predicted([p.format(w) for p, w in zip(prompts, words, strict=True)], chosen)

        base, learned = predicted(here, some), [LEARNED_WORD] * len(chosen)
        by_word = base - predicted(here, others)
        beside_known = base - predicted(there, some)
        beside_learned = predicted(here, learned) - predicted(there, learned)
        return torch.stack([self.inner(c, c, chosen) for c in (by_word, beside_known, beside_learned)], 1)

    def predicted(self, prompts: Sequence[str], which: list[int] | None = None) -> Tensor:
        """Return the predictions for all samples, or for those in `which`, each with its prompt, [B,C,h,w]."""
        self.watch()
        which = self.all if which is None else which
        text = self.model.text.encode(self.model.text.batch(prompts))
        return self.model.predict(
            self.noisy.x_t[which], self.noisy.t[which], text, self.batch.conditions.mapped(lambda own: own[which])
        )

    def inner(self, a: Tensor, b: Tensor, which: list[int] | None = None) -> Tensor:
        """Return the mean product of two tensors [B,C,h,w] per sample, weighted by the mask, float64 [B] on the CPU."""
        weight = self.weight[self.all if which is None else which]
        return (a.double() * b.double() * weight).mean((1, 2, 3)).cpu()


def worth_from_samples(gains: Tensor, changes: Tensor, known: Sequence[str]) -> Worth:
    """Return the worth of a word from the gains [N,4] and the changes [M,3] of all samples, in float64."""
    error, aligned, change, alone = gains.mean(0).tolist()
    by_word, beside_known, beside_learned = changes.mean(0).tolist()
    gain, beta = 2 * aligned - change, aligned / change if change > 0 else 0.0
    spread = float((gains[:, 1] - beta * gains[:, 2]).std()) / math.sqrt(len(gains))  # standard error of `aligned`
    return Worth(
        loss_before=error,
        loss_after=error - gain,
        loss_alone=alone,
        share=gain / by_word if by_word > 0 else 0.0,
        reach=1 - (1 - 1 / beta) ** 2 if beta > 0 else 0.0,
        standard_errors=gain / 2 / spread if spread > 0 else 0.0,
        obedience=beside_learned / beside_known if beside_known > 0 else 1.0,
        contrasts=len(changes),
        known_words=tuple(known),
    )


def known_words(model: Model) -> list[str]:
    """Return the common words whose encodings are farthest from their mean.

    A model that was trained on few words encodes the others as noise.
    """
    # added words with the same name
    taken = {word for tokenizer in model.text.tokenizers.values() for word in tokenizer.words}
    common = [word for word in COMMON if word not in taken]
    states = model.text.encode(model.text.batch([f"a {word}" for word in common])).sequence.float()  # [24,S,D]
    farthest = (states - states.mean(0)).flatten(1).norm(dim=1).topk(KNOWN).indices.tolist()
    return [common[i] for i in sorted(farthest)]


def replace_word(caption: str, word: str, other: str) -> str:
    """Return the caption with `word` replaced by `other`."""
    return whole_word((clean(word),)).sub(other, clean(caption))


@contextmanager
def temporary_words(model: Model, words: dict[str, Rows], stand_in: Mapping[str, Sequence[int]] = {}) -> Iterator[None]:
    """Add words to the model for the duration of the block. An encoder without rows reads the ids of `stand_in`."""
    for word, rows in words.items():
        model.text.add_word(word, rows, stand_in)
    try:
        yield
    finally:
        for word in reversed(words):
            model.text.remove_word(word)
