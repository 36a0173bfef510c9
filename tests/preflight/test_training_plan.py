"""Tests that a training plan is frozen and complete, and that settings are parsed, checked and reported once."""

from collections import Counter
from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch
from pydantic import ValidationError

from neonym.config import rules
from neonym.config.learning_settings import OptimSettings
from neonym.config.run import RunConfig
from neonym.config.values import Arguments, Colour, ParsedValue, Range, Rate, Resolution, Steps
from neonym.errors import ConfigError
from neonym.formats import write_embedding
from neonym.preflight import inputs, preflight
from neonym.types import Embedding
from support import WORD
from support.checks import check, check_flags, settings
from support.data_sets import make_images


def test_a_run_without_errors_has_a_frozen_and_complete_plan(tmp_path, images):
    found = check(images, num_vectors_per_token=2, learning_rate="1e-2:3,1e-3", max_train_steps=5, validation_split=0.4)
    plan = found.complete_plan()
    assert not found.failed()
    for part in (plan, plan.concept, plan.milestones):
        for field in fields(part):
            with pytest.raises(FrozenInstanceError):
                setattr(part, field.name, None)
    missing = [field.name for field in fields(plan) if getattr(plan, field.name) is None]
    assert missing == ["model_warmup", "at_once"]  # stages have no warm-up; the device is not known yet
    concept = plan.concept
    assert (concept.token, concept.file_name, concept.vectors, concept.init_word) == (WORD, WORD, 2, "picture")
    assert [concept.schedule(step) for step in range(5)] == [1e-2, 1e-2, 1e-2, 1e-3, 1e-3]
    assert concept.samples.steps == plan.milestones.total == 5
    assert {*concept.records, *concept.held_out} == {*found.records, *found.held_out}
    assert replace(plan, run=plan.run).milestones == plan.milestones


def test_a_plan_has_the_rows_of_a_weights_file(tmp_path, images):
    rows = torch.arange(2 * 128, dtype=torch.float32).reshape(2, 128)
    file = write_embedding(Embedding("old", {"text_encoder": rows}), tmp_path / "old.safetensors")
    concept = check(images, weights=str(file)).complete_plan().concept
    assert concept.vectors == 2
    assert torch.equal(concept.start["text_encoder"], rows)
    assert check(images).complete_plan().concept.start is None


def test_errors_of_every_kind_are_reported_at_once_and_each_once(tmp_path):
    make_images(tmp_path / "a", 2, caption="no word")
    found = check_flags(
        train_data_dir=str(tmp_path / "a"), token_string=WORD, learning_rate="fast", resolution="x", background="bleu",
        optimizer_args=["a"], lr_scheduler="cosin", min_snr_gamma=-1.0, min_timestep=500, max_timestep=400, clip_skip=99,
        train_encoders=("nose",), scale_v_pred_loss_like_noise_pred=True, resume="nowhere", sample_at_first=True,
    )  # fmt: skip
    wrong = [p for p in found.problems if p.severity == "error"]
    assert {p.where for p in wrong} == {
        "--learning_rate", "--resolution", "--background", "--optimizer_args", "--lr_scheduler", "--min_snr_gamma",
        "--min_timestep", "--clip_skip", "--train_encoders", "--scale_v_pred_loss_like_noise_pred", "--resume nowhere",
        "--sample_prompts",
    }  # fmt: skip
    assert max(Counter(map(str, found.problems)).values()) == 1
    with pytest.raises(ConfigError) as raised:
        found.complete_plan()
    assert raised.value.problems == wrong


def test_images_are_checked_even_if_a_setting_does_not_suit_the_model(tmp_path):
    """`neonym check` shows the images although there is no plan; a hasty check opens none."""
    make_images(tmp_path / "a", 2, caption="no word")
    run = settings(train_data_dir=str(tmp_path / "a"), token_string=WORD, clip_skip=99)
    found, hasty = preflight.preflight(run), preflight.preflight(run, hasty=True)
    assert [p.where for p in found.problems if p.severity == "error"] == ["--clip_skip", f"`{WORD}`"]
    assert [p.where for p in hasty.problems if p.severity == "error"] == ["--clip_skip"]
    assert (len(found.records), len(found.lost), hasty.records) == (2, 2, ())
    assert found.plans == hasty.plans == ()


def test_every_rule_is_checked_once(images, monkeypatch):
    calls = Counter()

    def counting(module, name):
        inner = getattr(module, name)

        def counted(*args):
            calls[name] += 1
            return inner(*args)

        monkeypatch.setattr(module, name, counted)

    for name in (
        "data_problems",
        "learning_problems",
        "contradictions",
        "hub_problems",
        "no_effect_warnings",
        "range_problems",
    ):
        counting(rules, name)
    counting(inputs, "output_problems")
    counting(preflight, "objective_problems")
    assert check(images).plans
    assert set(calls.values()) == {1}
    assert len(calls) == 8


def test_each_value_is_parsed_once(images, monkeypatch):
    """Each value is parsed once, however many functions read it."""
    parsed = Counter()
    for kind in (Rate, Steps, Resolution, Range, Colour, Arguments):
        inner = kind.parse

        def counted(value, kind=kind, inner=inner):
            parsed[kind, str(value)] += 1
            return inner(value)

        monkeypatch.setattr(kind, "parse", counted)
    flags = {
        "learning_rate": "1e-2:3,1e-3", "lr_decay_steps": "10%", "resolution": "64", "background": "red",
        "optimizer_args": ("eps=1e-8",), "lr_warmup_steps": "0",
    }  # fmt: skip
    assert check(images, **flags).plans
    assert {str(value) for _, value in parsed} == {str(value) for value in flags.values()}
    assert set(parsed.values()) == {1}


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [
        ("learning_rate", "0.005", 0.005), ("learning_rate", 1, 1.0), ("learning_rate", "0.01:5, 1e-3", "0.01:5, 1e-3"),
        ("lr_warmup_steps", 100, "100"), ("lr_warmup_steps", 0.1, "0.1"), ("lr_warmup_steps", " 10% ", " 10% "),
        ("optimizer_args", ["a=1", "b=(1, 2)"], ("a=1", "b=(1, 2)")),
    ],
)  # fmt: skip
def test_a_value_is_recorded_as_it_was_written(name, value, written):
    optim = OptimSettings(**{name: value})
    assert isinstance(getattr(optim, name), ParsedValue)
    assert optim.model_dump()[name] == written
    assert type(optim.model_dump()[name]) is type(written)
    assert OptimSettings.model_validate(optim.model_dump()) == optim


def test_a_value_that_cannot_be_read_is_refused_by_the_schema():
    with pytest.raises(ValidationError, match="neither a whole number of steps nor a share"):
        RunConfig.model_validate({"optim": {"lr_warmup_steps": "many"}})
    with pytest.raises(ValidationError, match="is not a colour"):
        RunConfig.model_validate({"dataset": {"background": "bleu"}})


@pytest.mark.parametrize(
    ("text", "total", "steps"),
    [("0", 10, 0), ("3", 10, 3), ("0.5", 10, 5), ("99.9%", 10, 9), ("100%", 10, 10), ("1", 10, 1), ("0.29", 50, 14)],
)
def test_shares_become_steps_rounded_down(text, total, steps):
    assert Steps.parse(text).of(total) == steps
