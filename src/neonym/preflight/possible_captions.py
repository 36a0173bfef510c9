"""The texts that a caption can become, and whether the word reaches the model in each of them."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from random import Random
from typing import Any, Literal

from neonym.data.captions import Moment, contains_word, fill_template, final_caption
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.seeds import dice
from neonym.text.words import clean
from neonym.types import CaptionRules, ImageRecord

Tokenizers = dict[str, WordTokenizer]  # {text encoder: its tokenizer}
# how the captions of an image lose their word
Fate = Literal["missing", "not always there", "cut off", "at times cut off"]
SPARE = 2  # ids: a punctuation mark and the comma after it are not always one token
FIRST, WARM = Moment(), Moment(step=10**12)  # WARM: the token warm-up is over
ALMOST_ONE = 1 - 1e-9  # a tag for which this number is drawn is dropped only if all tags are


def example_caption(record: ImageRecord, at: Moment) -> str:
    """Return one of the texts that a caption can become at a moment of the training, as an example."""
    return final_caption(record.caption, record.rules, dice(0, "caption"), at)


@lru_cache(maxsize=256)
def without_caption_dropout(rules: CaptionRules) -> CaptionRules:
    """Return the rules without those that drop whole captions."""
    return replace(rules, dropout=0.0, drop_every_n_epochs=0)


class FirstChoice(Random):
    """A stand-in for a random generator that shuffles nothing, drops nothing, and always takes the first choice."""

    def choice(self, seq: Any) -> Any:
        return seq[0]

    def shuffle(self, x: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # `random` in 3.10
        pass

    def random(self) -> float:
        return ALMOST_ONE


class WordChoice(FirstChoice):
    """A stand-in for a random generator that takes, from each {a|b}, a part with the word, or a part without it."""

    def __init__(self, word: str, with_word: bool):
        super().__init__(0)
        self.word, self.with_word = word, with_word

    def choice(self, seq: Any) -> Any:
        return next((part for part in seq if contains_word(part, self.word) == self.with_word), seq[0])


class WordLast(WordChoice):
    """A stand-in for a random generator that drops no tags and moves those with the word to the end."""

    def shuffle(self, x: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        x.sort(key=lambda tag: contains_word(tag, self.word))


class WordFirst(WordChoice):
    """A stand-in for a random generator that moves the word to the front and drops every tag that can be dropped."""

    def shuffle(self, x: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        x.sort(key=lambda tag: not contains_word(tag, self.word))

    def random(self) -> float:
        return 0.0


FIRST_CHOICE = FirstChoice()


def plain_caption(record: ImageRecord) -> str:
    """Return a caption in its original order, with nothing dropped."""
    return final_caption(record.caption, without_caption_dropout(record.rules), FIRST_CHOICE, FIRST)


def possible_captions(record: ImageRecord, fits: bool) -> set[str]:
    """Return the texts that a caption can become, as far as they differ in what becomes of the word.

    If the word can be neither missing nor cut off, one text is enough. Shuffling, warm-up and dropout never remove the
    word, but they can move it beyond the end of a caption that is too long. `fits` says that no caption is too long.
    """
    found, rules, plain = {plain_caption(record)}, record.rules, without_caption_dropout(record.rules)
    if not fits:
        found.add(final_caption(record.caption, plain, WordLast(rules.word, True), WARM))
        found.add(final_caption(record.caption, plain, WordFirst(rules.word, True), FIRST))
    if rules.wildcards:
        ways = [WordChoice(rules.word, with_word) for with_word in (True, False)]
        found |= {final_caption(line, plain, way, FIRST) for line in record.caption.split("\n") for way in ways}
    if rules.templates and not (fits and always_named(rules)):
        found |= {plain_caption(replace(record, rules=replace(rules, templates=(t,)))) for t in rules.templates}
    return found


@lru_cache(maxsize=256)
def always_named(rules: CaptionRules) -> bool:
    """Return whether every template contains the word itself, not only the caption."""
    return all(contains_word(fill_template(template, rules.word, ""), rules.word) for template in rules.templates)


def fullest_captions(record: ImageRecord) -> list[str]:
    """Return texts of which one is at least as long as any text that the caption can become."""
    rules = record.rules
    text = " ".join(filter(None, (rules.prefix, record.caption, rules.suffix)))
    return [fill_template(template, rules.word, text) for template in rules.templates] or [text]


def surely_fits(record: ImageRecord, tokenizers: Tokenizers) -> bool:
    """Return whether the caption of an image is certain never to be cut off."""
    texts = fullest_captions(record)
    return all(tokenizer.surely_fits(text, SPARE) for tokenizer in tokenizers.values() for text in texts)


def fate_of_word(record: ImageRecord, token: str, tokenizers: Tokenizers, fits: bool) -> Fate | None:
    """Return how the captions of an image lose the word; None if the word reaches the model in all of them.

    `fits` is the result of `surely_fits`.
    """
    word, texts = clean(token), possible_captions(record, fits)
    for tokenizer in tokenizers.values():
        with_it = [text for text in texts if word in tokenizer.words_in(text)]
        if len(with_it) < len(texts):
            return "not always there" if with_it else "missing"
    cut = [not fits and any(cuts_word(tokenizer, text) for tokenizer in tokenizers.values()) for text in texts]
    if not any(cut):
        return None
    return "cut off" if all(cut) else "at times cut off"


def cuts_word(tokenizer: WordTokenizer, text: str) -> bool:
    """Return whether vectors of a word are in the part of a text that does not fit."""
    return any(token >= tokenizer.vocab for token in tokenizer.cut_off(text))
