"""Tests of verdicts: the worth of a word on fixed images, noise and noise levels, the judgement and the advice."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from neonym import train
from neonym.generation.judge import FAIR_SHARE, LEARNED, LEAST_SHARE, NOT_LEARNED, WEAK, Judgement, judge
from neonym.generation.worth import KNOWN, Worth, known_words, temporary_words, worth_from_samples
from neonym.models.loading.identify import identify
from neonym.models.model import load_model
from neonym.training.verdict import EncoderFigures, advice
from support import ROOT, WORD

GOOD = Worth(
    loss_before=0.1, loss_after=0.08, loss_alone=0.12, share=0.2, reach=0.99, standard_errors=8.0, obedience=1.0
)


@pytest.mark.parametrize(
    ("changed", "word", "reason"),
    [
        (
            {},
            LEARNED,
            "images are predicted 20.0 % better than with its init word: 20.0 % of what a known word changes",
        ),
        ({"share": FAIR_SHARE * 0.9}, WEAK, "4.5 % of what a known word changes"),
        ({"share": LEAST_SHARE * 0.9}, NOT_LEARNED, "too little to see"),
        ({"share": 1e-6, "standard_errors": 50.0}, NOT_LEARNED, "too little to see"),  # certain, and nothing
        ({"loss_alone": 0.05}, WEAK, "without their captions, which do not fit them"),
        ({"reach": 0.1}, NOT_LEARNED, "10 % of the gain that is possible in its direction"),
        ({"reach": 0.3}, WEAK, "30 % of the gain that is possible in its direction"),
        ({"standard_errors": 1.9}, NOT_LEARNED, "which may be chance"),
        ({"loss_after": 0.11, "standard_errors": -3.0}, NOT_LEARNED, "10.0 % worse than with its init word"),
        ({"loss_after": 0.1, "standard_errors": 0.0}, NOT_LEARNED, "predicted 0.0 % worse than"),
        ({"loss_after": float("nan")}, NOT_LEARNED, "not finite"),
        ({"loss_before": 0.0, "loss_after": 0.0}, NOT_LEARNED, "masks are empty"),
    ],
)
def test_a_verdict_weighs_what_the_word_is_worth(changed, word, reason):
    found = judge(replace(GOOD, **changed))
    assert found.word == word
    assert reason in found.reason
    assert not found.overpowers


def test_a_word_that_drowns_the_others_counts_as_learned():
    assert judge(replace(GOOD, obedience=0.05)).overpowers
    assert not judge(replace(GOOD, obedience=0.05, share=0.001)).overpowers
    assert not judge(replace(GOOD, obedience=0.15, contrasts=2)).overpowers  # two contrasts are not sure enough


def products(beta: float, size: float, noise: float = 0.0) -> Worth:
    """Return the worth of a word that has moved `1 / beta` of its way, with changes of about `size`."""
    random = torch.Generator().manual_seed(0)
    change = size * (0.5 + torch.rand(32, generator=random, dtype=torch.float64))
    aligned = beta * change + noise * change.sqrt() * torch.randn(32, generator=random, dtype=torch.float64)
    gains = torch.stack([torch.full_like(change, 0.1), aligned, change, torch.full_like(change, 0.1)], 1)  # [32,4]
    return worth_from_samples(gains, torch.full((8, 3), 0.05, dtype=torch.float64), ["dog"])


def test_reach_is_the_share_of_the_possible_gain_in_the_direction():
    assert products(1.0, 0.01).reach == pytest.approx(1.0)
    assert products(2.0, 0.01).reach == pytest.approx(0.75)  # half of the way: 1 - 1/4
    assert products(20.0, 0.001).reach == pytest.approx(1 - 0.95**2)
    assert products(1.0, 0.01).share == pytest.approx(products(1.0, 0.02).share / 2)
    assert products(0.4, 0.01).share < 0


def test_certainty_does_not_grow_with_the_length_of_a_step():
    """A word that hardly moved may be as certain as one that did, but it is judged by its worth."""
    short, long = products(20.0, 1e-6, noise=1e-3), products(1.0, 0.01, noise=1e-3)
    assert short.standard_errors > 4
    assert judge(short).word == NOT_LEARNED
    assert judge(long).word == LEARNED


def test_words_are_lent_for_a_measurement_only():
    model = load_model()
    before = dict(model.text.tokenizers["text_encoder"].words)
    with temporary_words(model, {"lentword": {"text_encoder": torch.zeros(2, 128)}}):
        assert "lentword" in model.text.tokenizers["text_encoder"].words
    assert model.text.tokenizers["text_encoder"].words == before
    assert all(len(table.rows) == len(before) for table in model.text.tables.values())


def test_a_new_word_is_not_a_known_word():
    model = load_model()
    (first, *_) = known_words(model)
    with temporary_words(model, {first: {"text_encoder": torch.zeros(1, 128)}}):
        assert first not in known_words(model)
    assert len(known_words(model)) == KNOWN


def test_initial_vectors_are_judged_as_no_gain(run_for):
    """The initial rows have the same loss before and after, bit for bit: only rows differ between measurements."""
    (verdict,) = train(run_for(max_train_steps=2, learning_rate=1e-30)).verdicts
    assert verdict.loss_after == verdict.loss_before
    assert verdict.word == NOT_LEARNED
    assert verdict.share == 0.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_train_steps": 2, "learning_rate": 1e-30}, "hardly moved: use a higher `learning_rate`"),
        ({"max_train_steps": 3, "learning_rate": 30.0}, "times as long as a word's: use a lower `learning_rate`"),
    ],
)
def test_a_word_that_was_not_learned_comes_with_advice(run_for, options, words):
    (verdict,) = train(run_for(**options)).verdicts
    assert words in verdict.advice
    assert "around 0.02 suits this model" in verdict.advice
    assert f"advice: {verdict.advice}" in "\n".join(verdict.lines())


def test_the_advice_follows_from_how_the_rows_moved():
    moved = {"text_encoder": EncoderFigures(1.0, 0.3, 1.2, 4.0, [["sign"]])}
    source, weak, none = identify("builtin:emoji"), Judgement(WEAK, ""), Judgement(NOT_LEARNED, "")
    assert "--init_word" in advice(weak, GOOD, source, moved)
    assert "moved away" in advice(none, replace(GOOD, loss_after=0.11), source, moved)
    assert "moved away" in advice(none, replace(GOOD, loss_after=float("nan")), source, moved)
    assert "only begun" in advice(weak, replace(GOOD, reach=0.2), source, moved)
    assert "captions that say" in advice(weak, replace(GOOD, loss_alone=0.05), source, moved)
    assert "fewer steps" in advice(Judgement(LEARNED, "", overpowers=True), GOOD, source, moved)
    assert advice(Judgement(LEARNED, ""), GOOD, source, moved) == ""
    moved = {"text_encoder": EncoderFigures(1e-4, 1.0, 0.4, 0.4, [["sign"]])}
    assert "(a factor: Prodigy finds the rate itself)" in advice(weak, GOOD, source, moved, "Prodigy")


def test_sd_scripts_documented_settings_do_not_learn_and_report_it(images, tmp_path):
    """A run with the learning rate of sd-scripts' documentation ends with NOT LEARNED and advice to raise the rate."""
    flags = {"train_data_dir": images, "output_dir": tmp_path / "out", "token_string": WORD, "init_word": "cute"}
    flags |= {"num_vectors_per_token": 4, "learning_rate": 1e-6, "max_train_steps": 40, "lr_scheduler": "constant"}
    command = [sys.executable, str(ROOT / "train_textual_inversion.py"), *(f"--{k}={v}" for k, v in flags.items())]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 3, ended.stderr
    assert f"{WORD}: NOT LEARNED" in ended.stderr
    assert "hardly moved: use a higher --learning_rate" in ended.stderr
    (verdict,) = json.loads((tmp_path / "out" / f"{WORD}-run" / "verdict.json").read_text())
    assert verdict["share"] < 1e-3
    assert verdict["encoders"]["text_encoder"]["cosine"] > 0.999
