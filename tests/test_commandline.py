"""Flags, config files and sd-scripts' names: nothing is accepted and ignored."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from neonym.cli.main import main
from neonym.cli.train import DESCRIPTION, TrainFlags
from neonym.config.commandline import parse_flags, read_run, write_config
from neonym.config.run import RunConfig, fields_of
from neonym.config.sdscripts import OTHER_TRAINERS, SDSCRIPTS
from neonym.errors import ConfigError

FLAGS = json.loads((Path(__file__).parent / "golden" / "trainer_flags.json").read_text())


def given(*argv: str):
    return read_run(parse_flags(TrainFlags, list(argv), "train", DESCRIPTION), list(argv))


def config(tmp_path: Path, text: str) -> str:
    file = tmp_path / "job.toml"
    file.write_text(text)
    return f"--config_file={file}"


@pytest.mark.parametrize("script", FLAGS)
def test_every_flag_of_sd_scripts_is_known(script):
    settings = {name for _, name, _ in fields_of(RunConfig)}
    own = {name for name in TrainFlags.model_fields if name not in RunConfig.model_fields}
    known = settings | own | set(SDSCRIPTS) | {"help"}
    assert [name for name in FLAGS[script] if name not in known] == []


def test_the_table_is_about_sd_scripts_flags_alone():
    settings = {name for _, name, _ in fields_of(RunConfig)}
    every = {name for names in FLAGS.values() for name in names}
    assert set(SDSCRIPTS) <= every
    assert not set(SDSCRIPTS) & settings
    assert not OTHER_TRAINERS & (settings | every)
    assert all(c.setting in settings for c in SDSCRIPTS.values() if c.kind == "renamed")


def test_renamed_flags_set_their_setting():
    found = given("--use_8bit_adam", "--full_fp16", "--caption_extention=.cap")
    assert found.run.optim.optimizer_type == "AdamW8bit"
    assert found.run.compute.mixed_precision == "fp16"
    assert found.run.dataset.caption_extension == ".cap"
    (problem,) = given("--full_fp16", "--mixed_precision=bf16").problems
    assert problem.severity == "error"
    assert "goes against --mixed_precision=bf16" in problem.what


def test_flags_without_effect_are_said_and_refused_ones_stop():
    found = given("--highvram", "--max_data_loader_n_workers=2", "--lowram")
    assert [p.where for p in found.problems] == ["--max_data_loader_n_workers", "--lowram", "--highvram"]
    assert all(p.severity == "note" and "has no effect here" in p.what for p in found.problems)
    refused = given("--deepspeed", "--fused_backward_pass", "--fp8_base").problems
    assert {p.where for p in refused} == {"--deepspeed", "--fused_backward_pass", "--fp8_base"}
    assert {p.severity for p in refused} == {"error"}


def test_refused_flags_are_told_with_every_other_mistake(tmp_path, capsys):
    assert main(["train", "--train_data_dir", str(tmp_path / "nix"), "--fp8_base", "--learning_rate=-1"]) == 2
    said = capsys.readouterr().err
    assert all(part in said for part in ("--fp8_base", "--learning_rate", "nix", "--token_string"))
    assert main(["train", "--fp8_base", "--output_config", "--config_file", str(tmp_path / "c.toml")]) == 2
    assert not list(tmp_path.iterdir())


def test_the_command_line_wins_over_the_file(tmp_path):
    text = """
    token_string = "fromfile"
    [optimizer]
    learning_rate = 1
    optimizer_args = ["betas=0.9,0.99"]
    [anything]
    cache_latents = true
    lr_warmup_steps = 0.1
    use_8bit_adam = true
    """
    found = given(config(tmp_path, text), "--learning_rate", "2e-3", "--seed=3")
    optim = found.run.optim
    assert (optim.learning_rate, optim.seed, optim.lr_warmup_steps) == (2e-3, 3, "0.1")
    assert optim.optimizer_args == ("betas=0.9,0.99",)
    assert optim.optimizer_type == "AdamW8bit"
    assert (found.run.concept.token_string, found.run.cache.cache_latents) == ("fromfile", True)
    assert found.origins["learning_rate"] == "command line"
    assert found.origins["token_string"].endswith("job.toml")
    assert "max_train_steps" not in found.origins


def test_a_switch_may_stand_in_both(tmp_path):
    assert given(config(tmp_path, "cache_latents = true"), "--cache_latents").run.cache.cache_latents


def test_unknown_keys_and_wrong_values(tmp_path):
    with pytest.raises(ConfigError) as caught:
        given(config(tmp_path, "lerning_rate = 1\nsomething_else = 2\n[x]\nnetwork_dim = 4"))
    assert [p.what for p in caught.value.problems] == ["`lerning_rate` is not known", "`something_else` is not known"]
    assert "Did you mean `learning_rate`?" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        given(config(tmp_path, 'loss_type = "nonsense"\nmax_train_steps = "many"\nseed = 1.5'))
    text = str(caught.value)
    for name in ("loss_type", "max_train_steps", "seed"):
        assert f"`{name}`" in text
    assert "job.toml" in text


def test_switches_of_the_command_and_empty_texts_in_a_file(tmp_path):
    text = 'debug_dataset = true\noutput_config = false\nvae = ""\noptimizer_type = ""\nuse_8bit_adam = true'
    found = given(config(tmp_path, text))
    assert found.switches == {"debug_dataset"}
    assert found.run.optim.optimizer_type == "AdamW8bit"


def test_keys_of_other_trainers_get_one_warning(tmp_path):
    found = given(config(tmp_path, "network_dim = 4\nunet_lr = 1e-4\nseed = 2"))
    (problem,) = found.problems
    assert problem.severity == "warning"
    assert "network_dim, unet_lr" in problem.what
    assert found.run.optim.seed == 2


def test_what_is_written_reads_back(tmp_path):
    found = given(
        "--learning_rate=1e-3:10,1e-4", "--optimizer_args", "a=1", "b='x'", "--cache_latents", "--token_string=nä\\b"
    )
    path = write_config(found.run, tmp_path / "written")
    again = given(f"--config_file={path.with_suffix('')}")
    assert again.run == found.run
    with pytest.raises(ConfigError, match="is there already"):
        write_config(found.run, path)


def test_bad_settings_end_with_one_message_and_code_2(tmp_path):
    command = [
        sys.executable,
        "train_textual_inversion.py",
        "--train_data_dir=nowhere",
        "--token_string=x",
        "--loss_type=l2",
    ]
    command += ["--max_train_steps=0", "--adaptive_noise_scale=1", "--output_name=a/b", "--lr_scheduler=cosin"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    for words in (
        "nowhere is not a folder",
        "--max_train_steps",
        "--adaptive_noise_scale",
        "--output_name",
        "`cosine`",
    ):
        assert words in done.stderr
    assert "Traceback" not in done.stderr
