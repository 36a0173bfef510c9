"""Verdicts: what the paired losses of the same pictures, noise and noise levels say."""

import pytest
import torch

from neonym.learn import loop
from neonym.learn.verdict import LEARNED, NOT_LEARNED, WEAK, EncoderFigures, advice, judge
from neonym.models.identify import identify

BEFORE = 0.1 + 0.05 * torch.rand(64, generator=torch.Generator().manual_seed(0))


def after(gain: float, spread: float) -> torch.Tensor:
    """Losses that are lower by `gain` on average, unevenly so."""
    noise = torch.randn(64, generator=torch.Generator().manual_seed(1))
    noise -= noise.mean()
    return BEFORE - gain - spread * noise


@pytest.mark.parametrize(
    ("gain", "spread", "word", "reason"),
    [
        (5e-3, 1e-3, LEARNED, "pictures are predicted 4.0 % better than at the start"),
        (5e-3, 9e-3, LEARNED, "% better"),  # 4.4 standard errors
        (5e-3, 1.5e-2, WEAK, "only a little better than at the start (4.0"),
        (5e-3, 5e-2, NOT_LEARNED, "% better: too little to count"),
        (2e-4, 1e-5, WEAK, "only a little better"),  # sure, but next to nothing
        (1e-5, 1e-9, NOT_LEARNED, "(0.01 % better: too little to count)"),
        (0.0, 0.0, NOT_LEARNED, "(0.00 % worse)"),
        (-5e-3, 1e-3, NOT_LEARNED, "% worse)"),
    ],
)
def test_verdicts_weigh_the_gain_against_chance(gain, spread, word, reason):
    found, said, _ = judge(BEFORE, after(gain, spread))
    assert found == word
    assert reason in said


def test_a_verdict_never_praises_what_cannot_be_measured():
    assert judge(BEFORE, BEFORE * float("nan"))[0] == NOT_LEARNED
    assert judge(torch.zeros(8), torch.zeros(8))[0] == NOT_LEARNED


def test_the_vectors_of_the_start_are_judged_as_no_gain_at_all(run_for):
    """Nothing but the rows differs between the two measurements: the same rows give the same losses, bit for bit."""
    (verdict,) = loop.train(run_for(max_train_steps=2, learning_rate=1e-30)).verdicts
    assert verdict.loss_after == verdict.loss_before
    assert verdict.word == NOT_LEARNED


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_train_steps": 2, "learning_rate": 1e-30}, "hardly moved: give a higher --learning_rate"),
        ({"max_train_steps": 3, "learning_rate": 30.0}, "times as long as a word's: give a lower --learning_rate"),
    ],
)
def test_a_word_that_was_not_learned_comes_with_what_may_help(run_for, options, words):
    (verdict,) = loop.train(run_for(**options)).verdicts
    assert words in verdict.advice
    assert "around 0.02 suits this model" in verdict.advice
    assert f"what may help: {verdict.advice}" in "\n".join(verdict.lines())


def test_a_word_that_moved_in_vain_is_advised_to_begin_elsewhere():
    moved = {"text_encoder": EncoderFigures(1.0, 0.3, 1.2, 0.4, [["sign"]])}
    source = identify("builtin:emoji")
    assert "--init_word" in advice(WEAK, source, 0.1, 0.0999, moved)
    assert "moved away" in advice(NOT_LEARNED, source, 0.1, 0.11, moved)
    assert "moved away" in advice(NOT_LEARNED, source, 0.1, float("nan"), moved)
    assert advice(LEARNED, source, 0.1, 0.05, moved) == ""
    moved = {"text_encoder": EncoderFigures(1e-4, 1.0, 0.4, 0.4, [["sign"]])}
    assert "(a factor: Prodigy finds it itself)" in advice(WEAK, source, 0.1, 0.0999, moved, "Prodigy")
