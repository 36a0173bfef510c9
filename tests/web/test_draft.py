"""Verify that settings typed into the form become the run, the command and the file that say the same."""

from __future__ import annotations

import shlex

import pytest

from neonym import ConfigError, Problem, RunConfig
from neonym.cli.train import DESCRIPTION
from neonym.config.command_line import RunFlags, read_run
from neonym.config.flags import read_command_line
from neonym.config.resolve import tomllib
from neonym.web.draft import ELSEWHERE, FIELDS, Draft, acting, by_setting, draft_of, with_schedule
from neonym.web.imports import imported

TYPED = {
    "token_string": "my word's", "init_word": "cat", "train_data_dir": "/a folder/images", "max_train_steps": "50",
    "learning_rate": "1e-3", "resolution": "512,768", "flip_aug": True, "train_encoders": "clip_l t5xxl",
    "optimizer_args": 'betas=(0.9,0.99) weight_decay=0.01',
}  # fmt: skip


def run_of_command(command: str) -> RunConfig:
    words = shlex.split(command)
    assert words[:2] == ["neonym", "train"]
    line = read_command_line(RunFlags, words[2:], "neonym train", DESCRIPTION)
    given = read_run(line.flags, line.argv, line.problems)
    assert not given.problems
    return given.run


def test_the_form_the_command_and_the_file_are_the_same_run():
    draft = Draft()
    draft.update(TYPED)
    run = draft.run()
    assert run.optim.max_train_steps == 50
    assert run.concept.train_encoders == ("clip_l", "t5xxl")
    assert run_of_command(draft.command()) == run
    assert RunConfig.parse(**tomllib.loads(draft.toml())) == run
    assert draft_of(run).run() == run


def test_an_empty_field_has_its_default():
    draft = Draft()
    draft.update(TYPED)
    for name in TYPED:
        draft.set(name, "")
    assert draft.values == {}
    draft.set("flip_aug", False)
    assert draft.values == {}


def test_every_wrong_value_is_reported():
    draft = Draft()
    draft.update({"max_train_steps": "many", "learning_rate": "fast", "token_string": "x"})
    with pytest.raises(ConfigError) as error:
        draft.run()
    assert set(by_setting(error.value.problems)) == {"max_train_steps", "learning_rate"}


def test_problems_are_shown_at_their_setting():
    problems = [
        Problem("error", "a", "`learning_rate`"), Problem("error", "b", "--resolution=7"), Problem("error", "c", "`mychar4`"),
        Problem("error", "d", "the init word of `mychar4` (x)"), Problem("error", "e", "images"), Problem("error", "f", ""),
    ]  # fmt: skip
    found = by_setting(problems, "mychar4")
    assert {name: [problem.what for problem in own] for name, own in found.items()} == {
        "learning_rate": ["a"], "resolution": ["b"], "token_string": ["c"], "init_word": ["d"], "": ["e", "f"],
    }  # fmt: skip


def test_only_settings_that_act_on_the_model_are_shown():
    flow, diffusion = set(acting("flow")), set(acting("diffusion"))
    assert "discrete_flow_shift" in flow - diffusion
    assert "min_snr_gamma" in diffusion - flow
    assert flow | diffusion == set(acting(None)) == set(FIELDS) - set(ELSEWHERE)
    assert not {"huggingface_token", "wandb_api_key"} & set(acting(None))


def test_an_sdscripts_command_is_imported():
    text = """accelerate launch --num_cpu_threads_per_process 1 train_textual_inversion.py \\
      --pretrained_model_name_or_path=model.safetensors --token_string=waddlo --init_word=animal \\
      --num_vectors_per_token=2 --learning_rate=5e-3 --cache_latents --max_train_steps 1600"""
    draft, notes = imported(text)
    run = draft.run()
    assert (run.concept.token_string, run.concept.num_vectors_per_token, run.optim.max_train_steps) == (
        "waddlo",
        2,
        1600,
    )
    assert run.cache.cache_latents
    assert notes == []


def test_a_config_file_of_2022_is_imported_with_its_sections():
    """kohya's files of that time have sections, and keys that have no effect any more."""
    text = """
    [model_arguments]
    v2 = false
    pretrained_model_name_or_path = "model.ckpt"
    [training_arguments]
    max_train_steps = 800
    learning_rate = 5e-06
    use_8bit_adam = true
    [ti]
    token_string = "mychar4"
    """
    draft, _ = imported(text)
    assert draft.values["max_train_steps"] == 800
    assert draft.values["token_string"] == "mychar4"


def test_settings_of_onetrainer_are_imported_as_far_as_they_have_a_meaning():
    text = '{"base_model_name": "m.safetensors", "epochs": 20, "embedding": {"placeholder": "zyz", "token_count": 3}, "workspace_dir": 1, "ema": "OFF", "latent_caching": true}'
    draft, notes = imported(text)
    assert draft.values["pretrained_model_name_or_path"] == "m.safetensors"
    assert (draft.values["token_string"], draft.values["num_vectors_per_token"]) == ("zyz", 3)
    assert any("latent_caching" in note for note in notes)


@pytest.mark.parametrize(
    "text", ["", "{", "{}", "--no_such_flag=1", "a = ", "train 'open", "neonym train --help", "-h"]
)
def test_what_cannot_be_imported_is_one_message(text):
    with pytest.raises(ConfigError):
        imported(text)


def test_a_run_of_the_page_has_samples_and_saved_steps_in_between_unless_the_user_says_otherwise():
    defaults = {"max_train_steps": "100", "eval_every_n_steps": "5", "save_every_n_steps": "0"}
    planned = with_schedule(Draft({}), defaults, True).values
    assert planned == {"eval_every_n_steps": "5", "sample_every_n_steps": 20, "save_every_n_steps": 20}
    own = {"max_train_steps": "50", "sample_every_n_epochs": "2", "save_every_n_epochs": "1", "eval_every_n_steps": "9"}
    assert with_schedule(Draft(own), defaults, True).values == own
    kept = {**defaults, "save_every_n_steps": "100"}  # by the model's own default, in the run folder
    assert set(with_schedule(Draft({}), kept, False).values) == {"eval_every_n_steps"}
