"""Tests that settings without effect get a warning, contradictions an error, and no value a traceback."""

import pytest

from neonym.config.command_line import Given
from neonym.config.flat import replace_compat, validated
from neonym.config.rules import run_problems
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from neonym.config.sdscripts import SDSCRIPTS
from neonym.preflight.inputs import read_inputs
from neonym.preflight.learning import optimizer_errors
from support.checks import settings


def found(severity: str, **flags) -> str:
    """Return the problems of one severity for flags of a run that has images and a word, one per line."""
    problems = run_problems(settings(train_data_dir="a", token_string="x", **flags))
    return "\n".join(str(p) for p in problems if p.severity == severity)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"huber_c": 0.2}, "--huber_c has no effect without --loss_type=huber"),
        ({"noise_offset_random_strength": True}, "without --noise_offset"),
        ({"adaptive_noise_scale": 0.1, "noise_offset": 0.0}, "--adaptive_noise_scale has no effect with"),
        ({"multires_noise_discount": 0.5}, "without --multires_noise_iterations"),
        ({"dynamo_backend": "eager"}, "without --torch_compile"),
        ({"min_bucket_reso": 128}, "without --enable_bucket"),
        ({"max_train_steps": 7, "max_train_epochs": 2}, "--max_train_steps has no effect with --max_train_epochs"),
        ({"save_every_n_epochs": 2, "save_n_epoch_ratio": 3}, "--save_every_n_epochs has no effect with"),
        ({"save_last_n_steps_state": 3, "save_state": True}, "without --save_state and --save_every_n_steps"),
        ({"sample_sampler": "euler"}, "without --sample_prompts"),
        ({"metadata_author": "me", "save_model_as": "pt"}, "--metadata_author has no effect on .pt files"),
        ({"log_config": True}, "without --logging_dir or --log_with"),
        ({"wandb_run_name": "first", "logging_dir": "logs"}, "without --log_with=wandb"),
        ({"async_upload": True}, "without --huggingface_repo_id"),
        ({"save_state_to_huggingface": True, "huggingface_repo_id": "me/words"}, "without --save_state"),
        ({"early_stop_window": 4}, "without --early_stop"),
        ({"keep_tokens": 2}, "--keep_tokens has no effect without --shuffle_caption"),
        ({"caption_separator": ";"}, "--caption_separator has no effect without --shuffle_caption or another"),
        ({"caption_extension": ".cap", "in_json": "m.json"}, "--caption_extension has no effect with --in_json"),
        ({"token_warmup_min": 2, "shuffle_caption": True}, "--token_warmup_min has no effect without"),
        ({"optimizer_type": "adafactor", "learning_rate": 1e-3}, "AdaFactor finds its own rate"),
    ],
)
def test_a_setting_without_effect_gets_a_warning(flags, words):
    assert words in found("warning", **flags)
    assert found("error", **flags) == ""


def test_settings_with_an_effect_get_no_warning():
    flags = {
        "loss_type": "huber", "huber_c": 0.2, "save_every_n_steps": 2, "save_last_n_steps": 4, "metadata_author": "me",
        "keep_tokens": 2, "shuffle_caption": True, "enable_bucket": True, "bucket_reso_steps": 32, "early_stop": True, "early_stop_window": 4, "logging_dir": "logs",
        "log_prefix": "a", "optimizer_type": "AdaFactor", "optimizer_args": ("relative_step=False",), "learning_rate": 1e-3,
    }  # fmt: skip
    assert found("warning", **flags) == ""
    # the marker is removed, and tags are joined
    assert found("warning", keep_tokens_separator="|||", caption_separator=";") == ""
    assert found("warning", secondary_separator=";;;", caption_separator=";") == ""
    assert found("warning", in_json="meta.json", caption_separator=";") == ""
    assert found("warning", loss_type="l2", huber_c=0.1, prior_loss_weight=1.0, lr_warmup_steps="0.0") == ""


def test_zero_switches_a_setting_off():
    """As in sd-scripts, 0 switches a setting off, however it is written."""
    for nothing in ("0", "0.0", "0%"):
        assert found("error", lr_scheduler="constant", lr_warmup_steps=nothing) == ""
    assert "has no warm-up" in found("error", lr_scheduler="constant", lr_warmup_steps="1%")
    off = {
        "adaptive_noise_scale": 0.0,
        "save_n_epoch_ratio": 0,
        "ddp_timeout": 0,
        "min_snr_gamma": 0.0,
        "noise_offset": 0.0,
        "max_grad_norm": 0.0,
    }
    assert found("error", **off) == ""
    assert settings(vae="", resume="", sample_prompts="") == settings()


@pytest.mark.parametrize("name", ["output_dir", "logging_dir", "weights", "pretrained_model_name_or_path"])
def test_an_empty_path_is_an_error(name):
    assert f"--{name} is empty" in found("error", **{name: ""})


@pytest.mark.parametrize("name", ["me/words", "words", "My-org.1/a_b"])
def test_repository_names_are_accepted(name):
    assert found("error", huggingface_repo_id=name) == ""


@pytest.mark.parametrize("name", ["", "a b", "a/b/c", "/words", "../x", "häm/x"])
def test_wrong_repository_names_are_errors(name):
    assert "is not a valid repository name" in found("error", huggingface_repo_id=name)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"optimizer_type": "SparseAdam"}, "fails at an ordinary step"),
        ({"optimizer_type": "lbfgs"}, "fails at an ordinary step"),
        ({"optimizer_args": ("betas=(0.9,)",)}, "--optimizer_args"),
        ({"optimizer_args": ("lr=1",)}, "--optimizer_args"),
        ({"optimizer_type": "torch.optim.Nothing"}, "cannot be found"),
        ({"optimizer_type": "no.such.Thing"}, "needs a package that is not installed (no)"),
        ({"optimizer_type": ".Adam"}, "without a name"),
        ({"lr_scheduler_type": ".x"}, "--lr_scheduler_type"),
        ({"lr_scheduler_type": "StepLR"}, "--lr_scheduler_args"),
        ({"lr_scheduler_type": "pathlib.Path"}, "--lr_scheduler_args"),
        ({"lr_scheduler": "piecewise_constant", "lr_scheduler_args": ("step_rules=3",)}, "does not work"),
    ],
)
def test_optimizers_and_schedules_that_cannot_work_are_errors(flags, words):
    """Whatever exception the chosen class raises becomes an error with its flag."""
    run = settings(train_data_dir="a", token_string="x", **flags)
    problems = [*run_problems(run), *optimizer_errors(run.optim)]
    assert words in "\n".join(str(p) for p in problems if p.severity == "error")


@pytest.mark.parametrize("name", ["adamax", "torch.optim.Adafactor", "RMSPROP", "torch.optim.SGD"])
def test_names_of_torch_optimizers_match_in_any_case(name):
    run = settings(train_data_dir="a", token_string="x", optimizer_type=name)
    assert not [p for p in [*run_problems(run), *optimizer_errors(run.optim)] if p.severity == "error"]


def test_names_of_torch_schedules_match_in_any_case():
    run = settings(train_data_dir="a", token_string="x", lr_scheduler_type="steplr", lr_scheduler_args=("step_size=3",))
    assert not [p for p in [*run_problems(run), *optimizer_errors(run.optim)] if p.severity == "error"]


STRANGE = (-1, 0, 1.5, float("nan"), 10**30, "", "abc", "a/b", "10%", ["a=1"])


def test_no_value_of_any_setting_ends_in_a_traceback(tmp_path, monkeypatch):
    """Any value in a config file is accepted or reported, before anything else is read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    for name in (*(name for _, name, _ in fields_of(RunConfig)), *SDSCRIPTS):
        for value in STRANGE:
            given = Given({name: "job.toml"})
            values = {"train_data_dir": "a", "token_string": "x", name: value}
            run = validated(RunConfig, replace_compat(values, SDSCRIPTS, given), given)
            found = [*given.problems, *read_inputs(run).problems]
            assert all(problem.what for problem in found)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
