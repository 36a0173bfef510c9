"""Judge what a learned word is worth.

The limits were chosen on the built-in model with `benchmarks/verdict.py`; docs/training.md says how often they are
wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from neonym.generation.worth import Worth

VerdictWord = Literal["LEARNED", "WEAK", "NOT LEARNED"]
LEARNED, WEAK, NOT_LEARNED = "LEARNED", "WEAK", "NOT LEARNED"
FAIR_SHARE, LEAST_SHARE = 0.05, 0.015  # of the change when one known word replaces another
FAIR_REACH, LEAST_REACH = 0.5, 0.25  # of the highest gain in the word's direction
SURE = 2.0  # how many standard errors the gain must be above zero
HARMFUL = 1.15  # times the loss without the captions; above it, the word only makes up for captions that do not fit
OBEDIENT, BARELY_OBEDIENT = 0.25, 0.1  # of what other words change beside known words; 0.1 with few contrasts
ENOUGH_CONTRASTS = 4


@dataclass(frozen=True)
class Judgement:
    """A verdict, the reason for it, and whether the word overpowers the rest of the prompt."""

    word: VerdictWord
    reason: str
    overpowers: bool = False


def judge(worth: Worth, than: str = "its init word") -> Judgement:
    """Return the verdict on a word.

    LEARNED means that the word is worth using, WEAK that it is far from what it could be, and NOT LEARNED that it is no
    better than what it is compared with, which the reason calls `than`.
    """
    if not math.isfinite(worth.loss_after):
        return Judgement(NOT_LEARNED, "the evaluation loss is not finite")
    if not worth.loss_before > 0:
        return Judgement(NOT_LEARNED, "there is nothing to compare: the images' masks are empty")
    gain = 100 * (1 - worth.loss_after / worth.loss_before)
    better = f"{gain:.1f} % better than with {than}"
    if worth.standard_errors < SURE:
        worse = f"images are predicted {abs(gain):.1f} % worse than with {than}"
        return Judgement(NOT_LEARNED, f"images are predicted {better}, which may be chance" if gain > 0 else worse)
    if worth.share < LEAST_SHARE:
        return Judgement(NOT_LEARNED, f"images are predicted {better}: {gain_phrase(worth)}, too little to see")
    reason = f"images are predicted {better}: {gain_phrase(worth)}"
    if worth.reach < FAIR_REACH:
        word = NOT_LEARNED if worth.reach < LEAST_REACH else WEAK
        possible = f"{100 * worth.reach:.0f} % of the gain that is possible in its direction"
        return Judgement(word, f"{reason}, and only {possible}")
    if worth.loss_after > HARMFUL * worth.loss_alone:
        return Judgement(WEAK, f"{reason}, but even better without their captions, which do not fit them")
    if worth.share < FAIR_SHARE:
        return Judgement(WEAK, reason)
    limit = OBEDIENT if worth.contrasts >= ENOUGH_CONTRASTS else BARELY_OBEDIENT
    return Judgement(LEARNED, reason, overpowers=worth.obedience < limit)


def headline(word: str, overpowers: bool) -> str:
    """Return the verdict as it is shown to the user."""
    return f"{word}, BUT IT OVERPOWERS THE PROMPT" if overpowers else word


def gain_phrase(worth: Worth) -> str:
    """Return a phrase that compares the gain with the change that a known word makes."""
    return f"{100 * worth.share:.1f} % of what a known word changes"
