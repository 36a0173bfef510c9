"""Tests that flags and keys of other trainers are explained by their meaning, not by similar spelling."""

import pytest

from neonym.cli.main import main
from neonym.config.dataset import SubsetSpec
from neonym.config.generate import GenerateSettings
from neonym.config.other_trainers import GENERATORS, OTHER_SUBSET_KEYS, TRAINERS
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from neonym.config.sdscripts import GUI, SDSCRIPTS

SETTINGS = {name for _, name, _ in fields_of(RunConfig)}
DIFFUSERS = {  # from the command in its documentation
    "placeholder_token": "--token_string", "initializer_token": "--init_word", "learnable_property": "--use_object_template",
    "scale_lr": "batch size", "save_steps": "--save_every_n_steps", "repeats": "--dataset_repeats", "lr_num_cycles":
    "--lr_scheduler_num_cycles", "validation_prompt": "--sample_prompts", "checkpointing_steps": "--state_every_n_steps",
    "resume_from_checkpoint": "--resume", "report_to": "--log_with", "num_train_epochs": "--max_train_epochs",
}  # fmt: skip


def test_the_tables_refer_to_existing_flags():
    meant = {m.setting for words in TRAINERS.values() for m in words.values() if m.setting}
    assert meant <= SETTINGS
    assert {m.setting for m in GENERATORS.values()} <= set(GenerateSettings.model_fields)
    assert set(OTHER_SUBSET_KEYS.values()) <= set(SubsetSpec.model_fields)
    assert all(m.setting or m.note for words in TRAINERS.values() for m in words.values())


def test_the_tables_contain_no_flags_of_neonym():
    for trainer, words in TRAINERS.items():
        same = {word for word, meaning in words.items() if word in SETTINGS and meaning.setting != word}
        assert same == set(), trainer
        assert not set(words) & set(SDSCRIPTS), trainer
    assert not set(GENERATORS) & set(GenerateSettings.model_fields)
    assert "epoch" in GUI  # in a config file that the GUI wrote, it is ignored


def test_the_flags_of_a_diffusers_command_are_explained(capsys):
    assert main(["train", *(f"--{name}=1" for name in DIFFUSERS)]) == 2
    lines = {line.partition(" is not known")[0]: line for line in capsys.readouterr().err.splitlines()}
    for name, meaning in DIFFUSERS.items():
        assert meaning in lines[f"- --{name}"], lines[f"- --{name}"]
        assert "Did you mean" not in lines[f"- --{name}"]


@pytest.mark.parametrize(
    ("word", "meaning"),
    [("--initialization_text", "--init_word"), ("--embedding_name", "--token_string"), ("--token_count", "--num_vectors"),
     ("--Placeholder-Token", "--token_string"), ("--num_vectors", ""), ("--optimizer", "--optimizer_type"), ("--lr", "--learning_rate")],
)  # fmt: skip
def test_flags_of_other_trainers_are_explained(word, meaning, capsys):
    """Each flag is explained by its setting, except `--num_vectors`, which is an abbreviation of that setting."""
    assert main(["train", f"{word}=2"]) == 2
    output = capsys.readouterr().err
    assert meaning in output
    assert "--keep_tokens" not in output
    if word == "--num_vectors":
        assert "num_vectors" not in output


def test_keys_of_config_files_and_data_set_files_are_explained(tmp_path, capsys):
    job = tmp_path / "job.toml"
    job.write_text("placeholder_token = 'x'\nlearning_rate = 1\nscale_lr = true\nlerning_rate = 1\n")
    data = tmp_path / "data.toml"
    data.write_text("[[datasets]]\n[[datasets.subsets]]\npath = 'a'\nrepeats = 2\nplaceholder_token = 'x'\n")
    assert main(["train", f"--config_file={job}", f"--dataset_config={data}"]) == 2
    output = capsys.readouterr().err
    for words in (
        "`placeholder_token` is not known. This setting of diffusers and invoke-training is --token_string in Neonym",
        "multiply it by batch size", "Did you mean `learning_rate`?", "`path` is not known here. In Neonym it is `image_dir`",
        "`repeats` is not known here. In Neonym it is `num_repeats`",
    ):  # fmt: skip
        assert words in output


def test_generation_explains_flags_by_its_own_settings(capsys):
    assert main(["generate", "--guidance_scale=7", "--pretrained_model_name_or_path=x", "--placeholder_token=x"]) == 2
    output = capsys.readouterr().err
    assert "is --scale in Neonym" in output
    assert "is --ckpt in Neonym" in output
    assert "--token_string" not in output
