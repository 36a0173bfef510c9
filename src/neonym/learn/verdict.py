"""Was the word learned? Numbers, and one word for them.

The evaluation loss is measured on the same pictures, noise and timesteps before and after, so that the two differ
only by the rows: a paired comparison, far less noisy than the training loss.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from neonym.learn.optim import finds_rate
from neonym.learn.rates import TOO_SHORT, suiting_rate
from neonym.learn.rows import Concept
from neonym.models.family import Model
from neonym.models.source import ModelSource
from neonym.models.text import nearest_tokens

LEARNED, WEAK, NOT_LEARNED = "LEARNED", "WEAK", "NOT LEARNED"
SURE, LIKELY = 4.0, 2.0  # standard errors of the mean improvement
WORTHWHILE = 0.003  # share of the loss
TOO_LONG = 50  # times a word of the vocabulary


@dataclass(frozen=True)
class EncoderFigures:
    """How the rows of one encoder moved. Distances are Euclidean, over all rows together or per row as named."""

    distance: float  # root mean square over the rows
    cosine: float  # with the start, mean over the rows
    norm: float  # mean over the rows
    vocabulary_norm: float  # median over the vocabulary
    nearest: list[list[str]]  # per row, by cosine, without the start itself if it is not the nearest


@dataclass(frozen=True)
class Verdict:
    """The verdict on one concept."""

    token: str
    word: str  # LEARNED | WEAK | NOT LEARNED
    reason: str
    loss_before: float
    loss_after: float
    standard_errors: float  # mean improvement over its standard error
    evaluated_on: str
    encoders: dict[str, EncoderFigures]
    advice: str = ""  # what may help, unless it was learned

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For the terminal."""
        change = 100 * (self.loss_after / self.loss_before - 1) if self.loss_before else 0.0
        lines = [
            f"{self.token}: {self.word} ({self.reason})",
            f"  evaluation loss {self.loss_before:.5f} -> {self.loss_after:.5f} ({change:+.2f} %) on {self.evaluated_on}",
        ]
        if self.advice:
            lines.append(f"  what may help: {self.advice}")
        for name, f in self.encoders.items():
            lines.append(
                f"  {name}: moved {f.distance:.3f}, cosine with the start {f.cosine:.3f}, "
                f"norm {f.norm:.3f} (vocabulary {f.vocabulary_norm:.3f})"
            )
            lines += [f"    vector {i}: nearest words {', '.join(words)}" for i, words in enumerate(f.nearest)]
        return lines


def judge(before: torch.Tensor, after: torch.Tensor) -> tuple[str, str, float]:
    """-> (verdict, reason, improvement in standard errors), from paired losses [samples]."""
    if not bool(after.isfinite().all()):
        return NOT_LEARNED, "the evaluation loss is not finite", 0.0
    if not float(before.mean()) > 0:
        return NOT_LEARNED, "no part of the pictures counts: their masks are empty", 0.0
    gain = (before - after).double()
    error = float(gain.std() / math.sqrt(len(gain)))
    mean, sure = float(gain.mean()), 0.0
    if error > 0:
        sure = mean / error
    share = mean / float(before.mean())
    if sure < LIKELY or share < WORTHWHILE / 10:
        change = f"{100 * abs(share):.2f} % {'better: too little to count' if share > 0 else 'worse'}"
        return NOT_LEARNED, f"pictures are not predicted better than at the start ({change})", sure
    if sure < SURE or share < WORTHWHILE:
        return WEAK, f"pictures are predicted only a little better than at the start ({100 * share:.2f} %)", sure
    return LEARNED, f"pictures are predicted {100 * share:.1f} % better than at the start", sure


def figures(model: Model, concept: Concept, name: str) -> EncoderFigures:
    """Where the rows of encoder `name` are now."""
    rows, start = concept.result()[name], concept.start[name]
    table = model.vocabulary(name).float()  # [V,W]
    return EncoderFigures(
        distance=float((rows - start).norm(dim=1).square().mean().sqrt()),
        cosine=float(torch.cosine_similarity(rows, start).mean()),
        norm=float(rows.norm(dim=1).mean()),
        vocabulary_norm=float(table.norm(dim=1).median()),
        nearest=model.tokenizers[name].spelled(nearest_tokens(table, rows, 3).tolist()),
    )


def advice(
    word: str,
    source: ModelSource,
    before: float,
    after: float,
    moved: dict[str, EncoderFigures],
    optimizer: str = "AdamW",
) -> str:
    """What may help a word that was not learned, or hardly, from how its rows moved; nothing else is known of it."""
    if word == LEARNED:
        return ""
    known = f"for AdamW, around {suiting_rate(source):g} suits this model"
    rate = f"--learning_rate ({f'a factor: {optimizer} finds it itself' if finds_rate(optimizer) else known})"
    farthest = max(f.distance / math.sqrt(source.widths[name]) for name, f in moved.items())  # of a number
    if farthest < TOO_SHORT * source.word_spread:
        return f"its vectors hardly moved: give a higher {rate}, or more steps"
    times = max(f.norm / f.vocabulary_norm for f in moved.values())
    if times > TOO_LONG:
        return f"its vectors became {times:.0f} times as long as a word's: give a lower {rate}"
    if not after < before:
        return f"its vectors moved away from what the pictures show: give a lower {rate}, and look at the captions"
    return (
        "a nearer --init_word, another --seed, or more steps: the same command with a larger --max_train_steps goes on"
    )


def make_verdict(
    model: Model, concept: Concept, before: torch.Tensor, after: torch.Tensor, evaluated_on: str
) -> Verdict:
    """The verdict on one concept from its evaluation losses."""
    word, reason, sure = judge(before, after)
    moved = {name: figures(model, concept, name) for name in concept.rows}
    return Verdict(
        token=concept.token,
        word=word,
        reason=reason,
        loss_before=float(before.mean()),
        loss_after=float(after.mean()),
        standard_errors=sure,
        evaluated_on=evaluated_on,
        encoders=moved,
        advice=advice(
            word, model.source, float(before.mean()), float(after.mean()), moved, type(concept.optimizer).__name__
        ),
    )
