"""The worth of a word: how much better the frozen model predicts images with it than with the word that it began as.

Every measurement is paired: the same noised latents are predicted with several texts, which differ by one word only. Let
e_0 be the prediction with the start, e_w the one with the word, y the target and d = e_w - e_0. Then

    gain = |y - e_0|^2 - |y - e_w|^2 = 2 <y - e_0, d> - |d|^2

and going s times as far would gain 2 s <y - e_0, d> - s^2 |d|^2, which is highest at s = beta = <y - e_0, d> / |d|^2. So
a word that has found its place has beta = 1, one that has only begun to move has a beta far above 1, however certain its
tiny gain is, and one that does harm has a beta below 1/2.

The unit of gains is the model's own: how much its predictions change when one word that it knows takes the place of
another. Whether the word leaves the rest of a prompt alone is measured the same way: by how much predictions still change
beside it when other words do, against how much they change beside words that the model knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
KNOWN = 8  # of the common words: those that the model reads most differently from each other
CONTRASTS = (  # prompts that differ by other words than the one in braces
    ("a {} on a red background", "a {} on a blue background"),
    ("a sticker of a {}", "a 3d render of a {}"),
    ("a {} and a dog", "a {} and a car"),
    ("a {} on a black background", "a {} on a white background"),
    ("a flat drawing of a {}", "a 3d render of a {}"),
    ("a {} on a yellow background", "a {} on a purple background"),
    ("a {} and a house", "a {} and a flower"),
    ("a green {}", "a pink {}"),
)
ALONE = "a {}"  # what is left of a caption without everything but the word
FEW = 4  # one sample in so many is enough for what is only compared with the gain
PREDICTIONS = 3, 5  # of each sample, and of those few

Rows = dict[str, Tensor]  # {encoder: float32 [n,W]}


@dataclass(frozen=True)
class Question:
    """Noised images of one size, and the caption of each, in which the word stands."""

    batch: Batch
    captions: list[str]  # [B]


@dataclass(frozen=True)
class Worth:
    """The worth of a word. Losses are means over latent numbers and samples."""

    loss_before: float  # with the word that it began as
    loss_after: float
    loss_alone: float  # with the word that it began as and nothing else of the captions
    share: float  # the gain, over the mean squared change from one known word to another
    reach: float  # the gain, over the highest one in its direction: 1 - (1 - 1 / beta)^2
    standard_errors: float  # how certain it is that there is a gain
    obedience: float  # mean squared change by other words beside it, over that beside known words
    contrasts: int = len(CONTRASTS)  # how many samples that was measured on
    known_words: tuple[str, ...] = ()


def predictions(questions: Sequence[Question]) -> int:
    """Return how many batches `measure_worth` predicts."""
    each, more = PREDICTIONS
    return sum(each + more * bool(few) for few in chosen(questions))


def chosen(questions: Sequence[Question]) -> list[list[int]]:
    """Return for each question the indices of the few samples that everything is measured on: one in four of all."""
    found, first = [], 0
    for question in questions:
        count = len(question.captions)
        found.append([i for i in range(count) if (first + i) % FEW == FEW // 2])
        first += count
    return found


def measure_worth(
    model: Model,
    questions: Sequence[Question],
    word: str,
    start: Rows,
    learned: Rows,
    watch: Callable[[], None] = lambda: None,
) -> Worth:
    """Return what `learned` is worth against `start` as the rows of `word` in the captions of `questions`.

    There are eight samples or more. `watch` is called before every prediction and may raise.
    """
    with torch.no_grad(), lent(model, {LEARNED_WORD: learned, START_WORD: start}):
        known, gains, changes = known_words(model), [], []
        for question, few in zip(questions, chosen(questions), strict=True):
            compared = Compared(model, question.batch, watch)
            gains.append(compared.gains(question.captions, word))
            if few:
                changes.append(compared.changes(few, known, sum(map(len, changes))))
    return summed(torch.cat(gains), torch.cat(changes), known)


class Compared:
    """Predictions of the same noised latents with different texts."""

    def __init__(self, model: Model, batch: Batch, watch: Callable[[], None]):
        self.model, self.batch, self.watch = model, batch, watch
        x0 = model.vae.draw(batch.moments, batch.keys)  # [B,2C,h,w] -> [B,C,h,w]
        self.noisy: Noisy = model.process.add_noise(x0, batch.keys, batch.levels)
        self.weight = torch.ones_like(x0[:, :1]) if batch.mask is None else batch.mask  # [B,1,h,w]
        self.all = list(range(len(batch.keys)))

    def gains(self, captions: Sequence[str], word: str) -> Tensor:
        """Return |y - e_0|^2, <y - e_0, d>, |d|^2 and |y - e|^2 of every sample, float64 [B,4].

        e is predicted with the start and nothing else of the caption.
        """
        before = self.predicted([with_word(caption, word, START_WORD) for caption in captions])
        change = self.predicted([with_word(caption, word, LEARNED_WORD) for caption in captions]) - before
        target = self.noisy.target.float()
        error, alone = target - before, target - self.predicted([ALONE.format(START_WORD)] * len(captions))
        pairs = ((error, error), (error, change), (change, change), (alone, alone))
        return torch.stack([self.inner(a, b) for a, b in pairs], 1)

    def changes(self, few: list[int], known: Sequence[str], first: int) -> Tensor:
        """Return three squared changes of a few samples, float64 [F,3].

        They are those from a known word to another, by other words beside a known word, and by other words beside the
        learned one. `first` counts the samples before.
        """
        which = range(first, first + len(few))
        here, there = zip(*[CONTRASTS[i % len(CONTRASTS)] for i in which], strict=True)
        some, others = ([known[(i + k) % len(known)] for i in which] for k in (0, KNOWN // 2))

        def predicted(prompts: Sequence[str], words: Sequence[str]) -> Tensor:
            return self.predicted([p.format(w) for p, w in zip(prompts, words, strict=True)], few)

        base, learned = predicted(here, some), [LEARNED_WORD] * len(few)
        by_word = base - predicted(here, others)
        beside_known = base - predicted(there, some)
        beside_learned = predicted(here, learned) - predicted(there, learned)
        return torch.stack([self.inner(c, c, few) for c in (by_word, beside_known, beside_learned)], 1)

    def predicted(self, prompts: Sequence[str], which: list[int] | None = None) -> Tensor:
        """Return the predictions of all samples, or some of them, each with its prompt, [B,C,h,w]."""
        self.watch()
        which = self.all if which is None else which
        text = self.model.text.encode(self.model.text.batch(prompts))
        sizes = None if self.batch.sizes is None else self.batch.sizes[which]
        return self.model.predict(self.noisy.x_t[which], self.noisy.t[which], text, sizes)

    def inner(self, a: Tensor, b: Tensor, which: list[int] | None = None) -> Tensor:
        """Return the mean product of [B,C,h,w] over latent numbers, weighed by the mask: float64 [B] on the CPU."""
        weight = self.weight[self.all if which is None else which]
        return (a.double() * b.double() * weight).mean((1, 2, 3)).cpu()


def summed(gains: Tensor, changes: Tensor, known: Sequence[str]) -> Worth:
    """Return the worth of a word from the squares and products of all samples, float64 [N,4] and [M,3]."""
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
    """Return the common words that the model reads most differently from their mean.

    In a model that was taught few words, the others are noise.
    """
    taken = {word for tokenizer in model.text.tokenizers.values() for word in tokenizer.words}  # new words of that name
    common = [word for word in COMMON if word not in taken]
    states = model.text.encode(model.text.batch([f"a {word}" for word in common])).sequence.float()  # [24,S,D]
    farthest = (states - states.mean(0)).flatten(1).norm(dim=1).topk(KNOWN).indices.tolist()
    return [common[i] for i in sorted(farthest)]


def with_word(caption: str, word: str, other: str) -> str:
    """Return the caption with another word in the place of `word`."""
    return whole_word((clean(word),)).sub(other, clean(caption))


@contextmanager
def lent(model: Model, words: dict[str, Rows]) -> Iterator[None]:
    """Let the model know some words within the block."""
    for word, rows in words.items():
        model.text.add_word(word, rows)
    try:
        yield
    finally:
        for word in reversed(words):
            model.text.remove_word(word)
