"""The verdict: whether a word was learned, in one word, with the figures behind it and advice.

`generation/worth.py` measures what a word is worth. The limits here were chosen by `benchmarks/verdict.py` on the
built-in model; docs/training.md shows how often they are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from neonym.generation.judge import FAIR_REACH, HARMFUL, LEARNED, Judgement, headline, judge
from neonym.generation.worth import Worth
from neonym.models.encoders.rows import nearest_tokens
from neonym.models.model import Model
from neonym.models.source import ModelSource
from neonym.optim.optimizers import record_of
from neonym.optim.rates import TOO_SHORT, suitable_rate
from neonym.training.concept import Concept

TOO_LONG = 5  # times the length of a word that the model knows
STILL = 0.98  # cosine of a word that hardly moved with its initial rows


@dataclass(frozen=True)
class EncoderFigures:
    """The figures of the rows of one text encoder: how far they moved, how long they are, which words are nearest."""

    distance: float  # from the initial rows, Euclidean, root mean square over the rows
    cosine: float  # with the initial rows, mean over the rows
    norm: float  # Euclidean, mean over the rows
    known_norm: float  # the same for words that the model knows
    nearest: list[list[str]]  # per row, the three tokens with the largest cosine


@dataclass(frozen=True)
class Verdict:
    """The verdict on one concept."""

    token: str
    word: str  # LEARNED | WEAK | NOT LEARNED
    reason: str
    overpowers: bool  # learned, but other words of a prompt have little effect beside it
    loss_before: float  # with its init word
    loss_after: float
    loss_alone: float  # with its init word and without the captions
    share: float  # this and the next three: see `Worth`
    reach: float
    standard_errors: float
    obedience: float
    evaluated_on: str
    encoders: dict[str, EncoderFigures]
    advice: str = ""  # what may help; empty for a word that was learned and does not overpower the prompt

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as `verdict.json` holds it."""
        return asdict(self)

    @property
    def headline(self) -> str:
        """The verdict in a word or a short phrase."""
        return headline(self.word, self.overpowers)

    def lines(self) -> list[str]:
        """Return the verdict as lines for the terminal."""
        change = 100 * (self.loss_after / self.loss_before - 1) if self.loss_before else 0.0
        lines = [
            f"{self.token}: {self.headline} ({self.reason})",
            f"  evaluation loss {self.loss_before:.5f} -> {self.loss_after:.5f} ({change:+.2f} %) on {self.evaluated_on}",
            f"  other words change {100 * self.obedience:.0f} % as much beside it as beside words that the model knows",
        ]
        if self.advice:
            lines.append(f"  advice: {self.advice}")
        for name, f in self.encoders.items():
            lines.append(
                f"  {name}: moved {f.distance:.3f}, cosine with the start {f.cosine:.3f}, "
                f"norm {f.norm:.3f} (known words {f.known_norm:.3f})"
            )
            lines += [f"    vector {i}: nearest words {', '.join(words)}" for i, words in enumerate(f.nearest)]
        return lines


def figures(model: Model, concept: Concept, name: str, known: Sequence[str]) -> EncoderFigures:
    """Return the figures of a concept's rows for the text encoder `name`, beside those of the `known` words."""
    rows, start = concept.result()[name], concept.start[name]
    table, tokenizer = model.text.vocabulary(name).float(), model.text.tokenizers[name]  # [V,W]
    tokens = [token for word in known for token in tokenizer.token_ids(word)]
    return EncoderFigures(
        distance=float((rows - start).norm(dim=1).square().mean().sqrt()),
        cosine=float(torch.cosine_similarity(rows, start).mean()),
        norm=float(rows.norm(dim=1).mean()),
        known_norm=float(table[tokens].norm(dim=1).mean()),
        nearest=tokenizer.spelled(nearest_tokens(table, rows, 3, tokenizer.special_ids).tolist()),
    )


def advice(
    found: Judgement, worth: Worth, source: ModelSource, moved: dict[str, EncoderFigures], optimizer: str = "AdamW"
) -> str:
    """Return what may help, judging by how the rows moved and what the word is worth; empty if nothing is needed."""
    if found.overpowers:
        return (
            "use fewer steps (a file saved earlier, see --save_every_n_steps) or fewer vectors, write captions that name "
            "everything else in the images, or give the word less weight in a prompt: (word:0.7)"
        )
    if found.word == LEARNED:
        return ""
    hint = f"for AdamW, around {suitable_rate(source):g} suits this model"
    if record_of(optimizer).finds_rate:
        hint = f"a factor: {optimizer} finds the rate itself"
    rate = f"--learning_rate ({hint})"
    farthest = max(  # per number of a vector, in spreads of the vocabulary
        f.distance / math.sqrt(source.widths[name]) / source.spread_of(name) for name, f in moved.items()
    )
    turned = min(f.cosine for f in moved.values()) < STILL
    if farthest < TOO_SHORT and not turned:
        return f"its vectors hardly moved: use a higher {rate}, or train for more steps"
    times = max(f.norm / f.known_norm for f in moved.values())
    if times > TOO_LONG:
        return f"its vectors became {times:.0f} times as long as a word's: use a lower {rate}"
    if not worth.loss_after < worth.loss_before:
        return f"its vectors moved away from what the images show: use a lower {rate}, and check the captions"
    if worth.loss_after > HARMFUL * worth.loss_alone:
        return "write captions that say what is in the images: the word has learned to make up for the captions' errors"
    if worth.reach < FAIR_REACH:
        return f"its vectors have only begun to move: train for more steps, or use a higher {rate}"
    return (
        "try a closer --init_word, another --seed, or more steps (the same command with a larger --max_train_steps "
        "continues the run)"
    )


def make_verdict(model: Model, concept: Concept, worth: Worth, evaluated_on: str) -> Verdict:
    """Return the verdict on one concept, from what its word is worth."""
    found = judge(worth)
    moved = {name: figures(model, concept, name, worth.known_words) for name in concept.rows}
    return Verdict(
        token=concept.token,
        word=found.word,
        reason=found.reason,
        overpowers=found.overpowers,
        loss_before=worth.loss_before,
        loss_after=worth.loss_after,
        loss_alone=worth.loss_alone,
        share=worth.share,
        reach=worth.reach,
        standard_errors=worth.standard_errors,
        obedience=worth.obedience,
        evaluated_on=evaluated_on,
        encoders=moved,
        advice=advice(found, worth, model.source, moved, type(concept.optimizer).__name__),
    )
