"""The words of other trainers are told by their meaning, never by their spelling."""

import pytest

from neonym.cli.main import main
from neonym.config.dataset import SubsetSpec
from neonym.config.generate import GenerateSettings
from neonym.config.other_trainers import FOREIGN_KEYS, GENERATORS, TRAINERS
from neonym.config.run import RunConfig, fields_of
from neonym.config.sdscripts import GUI, SDSCRIPTS

SETTINGS = {name for _, name, _ in fields_of(RunConfig)}
DIFFUSERS = {  # of its own documented command
    "placeholder_token": "--token_string", "initializer_token": "--init_word", "learnable_property": "--use_object_template",
    "scale_lr": "batch size", "save_steps": "--save_every_n_steps", "repeats": "--dataset_repeats", "lr_num_cycles":
    "--lr_scheduler_num_cycles", "validation_prompt": "--sample_prompts", "checkpointing_steps": "--state_every_n_steps",
    "resume_from_checkpoint": "--resume", "report_to": "--log_with", "num_train_epochs": "--max_train_epochs",
}  # fmt: skip


def test_the_tables_name_flags_that_exist():
    meant = {m.setting for words in TRAINERS.values() for m in words.values() if m.setting}
    assert meant <= SETTINGS
    assert {m.setting for m in GENERATORS.values()} <= set(GenerateSettings.model_fields)
    assert set(FOREIGN_KEYS.values()) <= set(SubsetSpec.model_fields)
    assert all(m.setting or m.note for words in TRAINERS.values() for m in words.values())


def test_the_tables_are_about_words_that_are_unknown_here():
    for trainer, words in TRAINERS.items():
        same = {word for word, meaning in words.items() if word in SETTINGS and meaning.setting != word}
        assert same == set(), trainer
        assert not set(words) & set(SDSCRIPTS), trainer
    assert not set(GENERATORS) & set(GenerateSettings.model_fields)
    assert "epoch" in GUI  # in a config file that the GUI wrote it is passed over


def test_diffusers_own_command(capsys):
    assert main(["train", *(f"--{name}=1" for name in DIFFUSERS)]) == 2
    lines = {line.partition(":")[0]: line for line in capsys.readouterr().err.splitlines()}
    for name, told in DIFFUSERS.items():
        assert told in lines[f"- --{name}"], lines[f"- --{name}"]
        assert "Did you mean" not in lines[f"- --{name}"]


@pytest.mark.parametrize(
    ("word", "told"),
    [("--initialization_text", "--init_word"), ("--embedding_name", "--token_string"), ("--token_count", "--num_vectors"),
     ("--Placeholder-Token", "--token_string"), ("--num_vectors", ""), ("--optimizer", "--optimizer_type"), ("--lr", "--learning_rate")],
)  # fmt: skip
def test_words_of_others(word, told, capsys):
    """`--num_vectors` is an abbreviation of the flag that it means."""
    assert main(["train", f"{word}=2"]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "--keep_tokens" not in said
    if word == "--num_vectors":
        assert "num_vectors" not in said


def test_keys_of_config_files_too(tmp_path, capsys):
    job = tmp_path / "job.toml"
    job.write_text("placeholder_token = 'x'\nlearning_rate = 1\nscale_lr = true\nlerning_rate = 1\n")
    data = tmp_path / "data.toml"
    data.write_text("[[datasets]]\n[[datasets.subsets]]\npath = 'a'\nrepeats = 2\nplaceholder_token = 'x'\n")
    assert main(["train", f"--config_file={job}", f"--dataset_config={data}"]) == 2
    said = capsys.readouterr().err
    for words in (
        "`placeholder_token` is not known. In diffusers and invoke-training it is what --token_string is here",
        "multiply it by batch size", "Did you mean `learning_rate`?", "`path` is not known here. Here it is `image_dir`",
        "`repeats` is not known here. Here it is `num_repeats`",
    ):  # fmt: skip
        assert words in said


def test_generation_knows_its_own(capsys):
    assert main(["generate", "--guidance_scale=7", "--pretrained_model_name_or_path=x", "--placeholder_token=x"]) == 2
    said = capsys.readouterr().err
    assert "it is what --scale is here" in said
    assert "it is what --ckpt is here" in said
    assert "--token_string" not in said
