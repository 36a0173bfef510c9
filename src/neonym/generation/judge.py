"""A verdict in one word on what a learned word is worth.

The limits were chosen on the built-in model, by `benchmarks/verdict.py`; docs/training.md says how often
they are wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from neonym.generation.worth import Worth

Word = Literal["LEARNED", "WEAK", "NOT LEARNED"]
LEARNED, WEAK, NOT_LEARNED = "LEARNED", "WEAK", "NOT LEARNED"
FAIR_SHARE, LEAST_SHARE = 0.05, 0.015  # of what changes if one known word replaces another
FAIR_REACH, LEAST_REACH = 0.5, 0.25  # of the gain in the word's direction
SURE = 2.0  # standard errors above no gain at all
HARMFUL = 1.15  # times the loss without the captions: a word that is not below it only makes up for what they say
OBEDIENT, BARELY_OBEDIENT = (
    0.25,
    0.1,
)  # share of what other words change beside known words; the second with few contrasts
ENOUGH = 4  # contrasts


@dataclass(frozen=True)
class Judgement:
    """A verdict, its reason, and whether the learned word overpowers the rest of the prompt."""

    word: Word
    reason: str
    overpowers: bool = False


def judge(worth: Worth, than: str = "its init word") -> Judgement:
    """Return the verdict on a word.

    It is LEARNED if the word is worth using, WEAK if it is far from what it could be, NOT LEARNED if it is no better
    than its start. The reason calls what the word is compared with `than`.
    """
    if not math.isfinite(worth.loss_after):
        return Judgement(NOT_LEARNED, "the evaluation loss is not finite")
    if not worth.loss_before > 0:
        return Judgement(NOT_LEARNED, "no part of the images counts: their masks are empty")
    gain = 100 * (1 - worth.loss_after / worth.loss_before)
    better = f"{gain:.1f} % better than with {than}"
    if worth.standard_errors < SURE:
        worse = f"images are predicted {-gain:.1f} % worse than with {than}"
        return Judgement(NOT_LEARNED, f"images are predicted {better}, which chance explains" if gain > 0 else worse)
    if worth.share < LEAST_SHARE:
        return Judgement(
            NOT_LEARNED, f"images are predicted {better}: {of_a_known_word(worth)}, which nobody would see"
        )
    reason = f"images are predicted {better}: {of_a_known_word(worth)}"
    if worth.reach < FAIR_REACH:
        word = NOT_LEARNED if worth.reach < LEAST_REACH else WEAK
        return Judgement(word, f"{reason}, and {100 * worth.reach:.0f} % of what its direction holds")
    if worth.loss_after > HARMFUL * worth.loss_alone:
        return Judgement(WEAK, f"{reason}, but better still without their captions, which do not fit them")
    if worth.share < FAIR_SHARE:
        return Judgement(WEAK, reason)
    limit = OBEDIENT if worth.contrasts >= ENOUGH else BARELY_OBEDIENT
    return Judgement(LEARNED, reason, overpowers=worth.obedience < limit)


def headline(word: str, overpowers: bool) -> str:
    """Return the verdict as it is shown."""
    return f"{word}, BUT IT OVERPOWERS THE PROMPT" if overpowers else word


def of_a_known_word(worth: Worth) -> str:
    """Return a phrase that compares the gain with what a known word changes."""
    return f"{100 * worth.share:.1f} % of what a known word changes"
