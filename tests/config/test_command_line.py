"""Tests of flags, config files and sd-scripts' names, none of which is silently ignored."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from neonym.cli.main import main
from neonym.cli.train import DESCRIPTION
from neonym.config.command_line import RunFlags, read_run, write_config
from neonym.config.flags import parse_flags, read_command_line
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from neonym.config.sdscripts import GUI, OTHER_TRAINERS, SDSCRIPTS
from neonym.config.values import as_written
from neonym.errors import ConfigError
from support import GOLDEN
from support.data_sets import make_images

FLAGS = json.loads((GOLDEN / "trainer_flags.json").read_text())


def given(*argv: str):
    return read_run(parse_flags(RunFlags, list(argv), "train", DESCRIPTION), list(argv))


def config(tmp_path: Path, text: str) -> str:
    file = tmp_path / "job.toml"
    file.write_text(text)
    return f"--config_file={file}"


@pytest.mark.parametrize("script", FLAGS)
def test_every_flag_of_sd_scripts_is_known(script):
    settings = {name for _, name, _ in fields_of(RunConfig)}
    own = {name for name in RunFlags.model_fields if name not in RunConfig.model_fields}
    known = settings | own | set(SDSCRIPTS) | {"help"}
    assert [name for name in FLAGS[script] if name not in known] == []


def test_the_table_contains_only_flags_of_sd_scripts():
    settings = {name for _, name, _ in fields_of(RunConfig)}
    every = {name for names in FLAGS.values() for name in names}
    assert (
        set(SDSCRIPTS) - {"ae"} <= every
    )  # --ae is a flag of sd-scripts' trainers for FLUX, which name files as we do
    assert not set(SDSCRIPTS) & settings
    assert not (OTHER_TRAINERS | GUI) & (settings | every)
    assert all(c.setting in settings for c in SDSCRIPTS.values() if c.kind == "renamed")


def test_renamed_flags_set_their_setting():
    found = given("--use_8bit_adam", "--full_fp16", "--caption_extention=.cap")
    assert found.run.optim.optimizer_type == "AdamW8bit"
    assert found.run.compute.mixed_precision == "fp16"
    assert found.run.dataset.caption_extension == ".cap"
    (problem,) = found.problems
    assert (problem.severity, problem.where) == ("note", "--full_fp16")
    assert "stay float32" in problem.what
    (problem,) = given("--full_fp16", "--mixed_precision=bf16").problems
    assert problem.severity == "error"
    assert "contradicts --mixed_precision=bf16" in problem.what


def test_flags_without_effect_get_a_note_and_refused_ones_an_error():
    found = given("--highvram", "--max_data_loader_n_workers=2", "--lowram")
    assert [p.where for p in found.problems] == ["--max_data_loader_n_workers", "--lowram", "--highvram"]
    assert all(p.severity == "note" and "has no effect here" in p.what for p in found.problems)
    (problem,) = given("--vae_batch_size=-1").problems
    assert (problem.severity, problem.where) == ("error", "--vae_batch_size")
    refused = given("--deepspeed", "--fused_backward_pass", "--dataset_class=a.B").problems
    assert {p.where for p in refused} == {"--deepspeed", "--fused_backward_pass", "--dataset_class"}
    assert {p.severity for p in refused} == {"error"}


def test_only_the_first_of_several_processes_reports_errors(monkeypatch, capsys):
    for rank, words in (("0", "--learning_rate"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert main(["train", "--learning_rate=-1"]) == 2
        output = capsys.readouterr().err
        assert words in output
        assert bool(output) == bool(words)


def test_refused_flags_are_reported_together_with_all_other_mistakes(tmp_path, capsys):
    assert main(["train", "--train_data_dir", str(tmp_path / "nix"), "--deepspeed", "--learning_rate=-1"]) == 2
    output = capsys.readouterr().err
    assert all(part in output for part in ("--deepspeed", "--learning_rate", "nix", "--token_string"))
    assert main(["train", "--deepspeed", "--output_config", "--config_file", str(tmp_path / "c.toml")]) == 2
    assert not list(tmp_path.iterdir())


def test_the_command_line_takes_precedence_over_the_file(tmp_path):
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
    assert (optim.learning_rate.first, optim.seed, optim.lr_warmup_steps.of(50)) == (2e-3, 3, 5)
    assert optim.optimizer_args.values == {"betas": (0.9, 0.99)}
    assert optim.optimizer_type == "AdamW8bit"
    assert (found.run.concept.token_string, found.run.cache.cache_latents) == ("fromfile", True)
    assert found.origins["learning_rate"] == "command line"
    assert found.origins["token_string"].endswith("job.toml")
    assert "max_train_steps" not in found.origins


def test_a_switch_may_be_in_the_file_and_on_the_command_line(tmp_path):
    assert given(config(tmp_path, "cache_latents = true"), "--cache_latents").run.cache.cache_latents


def test_unknown_keys_and_wrong_values_are_reported_together(tmp_path):
    """All of them are reported with the refused flag, and correct values are kept."""
    text = 'lerning_rate = 1\nsomething_else = 2\nloss_type = "nonsense"\nmax_train_steps = "many"\nseed = 1.5\nlearning_rate = true'
    found = given(config(tmp_path, text + "\nkeep_tokens = 2\n[x]\nnetwork_dim = 4"), "--deepspeed")
    output = "\n".join(str(p) for p in found.problems if p.severity == "error")
    for words in (
        "`lerning_rate` is not known. Did you mean `learning_rate`?", "`something_else` is not known", "--deepspeed",
        "job.toml, `loss_type`", "job.toml, `max_train_steps`", "job.toml, `seed`", "`true` is not a learning rate",
    ):  # fmt: skip
        assert words in output
    assert found.run.dataset.keep_tokens == 2
    assert given(f"--config_file={tmp_path / 'none'}").problems[0].severity == "error"


def line(*argv: str):
    return read_command_line(RunFlags, list(argv), "train", DESCRIPTION)


def test_abbreviations_are_expanded_as_in_sd_scripts(tmp_path):
    """The beginning of a flag stands for it if it fits only that flag, and still takes precedence over a file."""
    read = line(
        "--token_str", "x y", "--max_train_st=7", "--optimizer_a", "a=1", "b=2", config(tmp_path, "seed = 3"), "--see=4"
    )
    assert read.problems == []
    run = read_run(read.flags, read.argv).run
    assert (run.concept.token_string, run.optim.max_train_steps, run.optim.seed) == ("x y", 7, 4)
    assert run.optim.optimizer_args.values == {"a": 1, "b": 2}
    (problem,) = line("--lr_s=1").problems
    assert "--lr_scheduler, --lr_scheduler_type" in problem.fix
    assert given("--token_str=z").run.concept.token_string == "z"


def test_all_wrong_flags_are_reported_together():
    """Wrong types, missing and surplus values, unknown flags and stray words are reported; correct flags are kept."""
    read = line(
        "lost", "--max_train_steps=1e3", "--seed", "x", "--loss_type=L2", "--max_token_length=80", "--huber_c=much",
        "--cache_latents=True", "--output_dir", "--init_word", "red", "dog", "--lerning_rate=1", "--keep_tokens=2",
        "--max_data_loader_n_workers=two", "--max_token_length=150", "--adaptive_noise_scale", "-0.5",
    )  # fmt: skip
    output = "\n".join(str(p) for p in read.problems)
    for words in (
        "lost does not belong to a flag", "--max_train_steps: `1e3` is not a whole number", "--seed: `x` is not a whole number",
        "--loss_type: `L2` is not one of l2, l1, huber", "--max_token_length: `80` is not one of 75, 150, 225",
        "--huber_c: `much` is not a number", "--cache_latents takes no value, but `True` is given",
        "--output_dir needs a value", "--init_word takes one value, and `dog` does not belong to a flag",
        "--lerning_rate is not known. Did you mean `--learning_rate`?", "--max_data_loader_n_workers: `two` is not a whole",
    ):  # fmt: skip
        assert words in output, output
    assert len(read.problems) == 11
    run = read_run(read.flags, read.argv, read.problems).run
    assert (run.dataset.keep_tokens, run.model.max_token_length, run.objective.adaptive_noise_scale) == (2, 150, -0.5)


def test_a_file_may_contain_switches_of_the_command_and_empty_texts(tmp_path):
    text = 'debug_dataset = true\noutput_config = false\nvae = ""\noptimizer_type = ""\nuse_8bit_adam = true'
    found = given(config(tmp_path, text))
    assert found.debug_dataset
    assert found.run.optim.optimizer_type == "AdamW8bit"
    assert [p.severity for p in found.problems] == []
    found = given(config(tmp_path, 'debug_dataset = "maybe"\noutput_config = true\nconfig_file = "a.toml"'))
    assert not found.debug_dataset
    assert [(p.severity, p.where.split("`")[1]) for p in found.problems] == [
        ("error", "debug_dataset"), ("warning", "config_file"), ("warning", "output_config")
    ]  # fmt: skip


def test_numbers_become_texts_where_a_text_is_expected(tmp_path):
    text = 'output_name = 2024\nresolution = 512\nlearning_rate = 1\ncaption_prefix = 1.5\noptimizer_args = "a=1"'
    found = given(config(tmp_path, text))
    data = found.run.dataset
    assert (found.run.save.output_name, data.resolution.written, data.caption_prefix) == ("2024", "512", "1.5")
    assert found.run.optim.learning_rate.written == 1.0
    assert given(config(tmp_path, 'learning_rate = "1e-4"')).run.optim.learning_rate.first == 1e-4
    (problem,) = found.problems
    assert "--optimizer_args: a list of name=value is expected" in str(problem)


def test_keys_of_other_trainers_share_one_warning(tmp_path):
    found = given(config(tmp_path, "network_dim = 4\nunet_lr = 1e-4\nseed = 2"))
    (problem,) = found.problems
    assert problem.severity == "warning"
    assert "network_dim, unet_lr" in problem.what
    assert found.run.optim.seed == 2


@pytest.mark.parametrize("text", ["[1]", "3", "null", '"text"'])
def test_a_json_config_file_that_is_not_a_table_is_an_error(tmp_path, text):
    path = tmp_path / "run.json"
    path.write_text(text)
    (problem,) = given(f"--config_file={path}").problems
    assert (problem.severity, problem.what, problem.where) == ("error", "must be a table", str(path))


def test_a_config_file_of_the_kohya_ss_gui_is_accepted(tmp_path):
    """The file of its Textual Inversion tab has two keys of the GUI itself and a switch that is a number."""
    text = """
    caption_dropout_every_n_epochs = 0
    epoch = 5
    init_word = "*"
    lr_scheduler_args = []
    noise_offset = 0.05
    noise_offset_type = "Original"
    persistent_data_loader_workers = 1
    token_string = "hootle"
    """
    found = given(config(tmp_path, text))
    assert not [p for p in found.problems if p.severity == "error"]
    (problem,) = [p for p in found.problems if p.severity == "warning"]
    assert "epoch, noise_offset_type: keys of the kohya_ss GUI" in problem.what
    assert found.run.objective.noise_offset == 0.05


def test_a_written_config_file_gives_the_same_run(tmp_path):
    found = given(
        "--learning_rate=1e-3:10,1e-4", "--optimizer_args", "a=1", "b='x'", "--cache_latents", "--token_string=nä\\b"
    )
    path = write_config(found.run, tmp_path / "written")
    again = given(f"--config_file={path.with_suffix('')}")
    assert again.run == found.run
    with pytest.raises(ConfigError, match="already exists"):
        write_config(found.run, path)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--clip_skip=99", "--learning_rate=-1"], ("text layers, not 99", "--learning_rate: -1")),
        (["--enable_bucket", "--resolution=64"], ("below min_bucket_reso",)),
        ([], ("none of the 2 captions contains the word",)),
    ],
)
def test_problems_of_model_and_images_are_reported_without_torch(tmp_path, flags, words):
    folder = make_images(tmp_path / "a", 2, caption="nothing")
    argv = [f"--train_data_dir={folder}", "--token_string=mychar4", f"--output_dir={tmp_path / 'out'}", *flags]
    assert main(["check", *argv]) == 2  # fills the memo of the tokenizer library's answers
    code = f"""
import sys
from neonym.cli.main import main
code = main(["train", *{argv!r}])
assert "torch" not in sys.modules
sys.exit(code)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert all(text in done.stderr for text in words), done.stderr


def test_wrong_settings_end_with_one_message_and_code_2_without_torch(tmp_path):
    """One message reports types, limits, contradictions, names and files, and takes less time than importing torch."""
    flags = [
        "--train_data_dir=nowhere", "--token_string=x", "--max_train_steps=0", "--adaptive_noise_scale=1", "--output_name=a/b",
        "--lr_scheduler=cosin", "--seed=x", "--optimizer_type=Adan", "--scale_v_pred_loss_like_noise_pred", "--resume=none",
        "--sample_every_n_steps=5", "--deepspeed", "--huggingface_repo_id=a b", "--weights=none.pt", "--lerning=1",
        f"--log_tracker_config={tmp_path / 'none.toml'}", "--logging_dir=logs", "--lr_scheduler_min_lr_ratio=2",
    ]  # fmt: skip
    code = f"""
import sys
from neonym.cli.main import main
code = main(["train", *{flags!r}])
assert not {{"torch", "transformers", "diffusers", "accelerate"}} & set(sys.modules)
sys.exit(code)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    for words in (
        "nowhere is not a folder", "--max_train_steps: 0 is less", "--adaptive_noise_scale", "--output_name", "`cosine`",
        "--seed: `x`", "`Adan` is not known", "--scale_v_pred_loss_like_noise_pred is only for models that predict v",
        "--resume none: there is no", "--sample_prompts", "--deepspeed", "--huggingface_repo_id", "--weights none.pt",
        "--lerning is not known", "--log_tracker_config", "--lr_scheduler_min_lr_ratio: 2.0 is more than 1",
    ):  # fmt: skip
        assert words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('max_token_length = "75"', 75), ('max_token_length = " 150 "', 150), ("max_token_length = 225.0", 225),
        ('clip_skip = "2"', 2), ('max_train_steps = "1e3"', 1000), ('cache_latents = "true"', True), ('cache_latents = "False"', False),
        ('min_snr_gamma = "5"', 5.0), ('noise_offset = "0.1"', 0.1), ('learning_rate = "1e-3"', 1e-3), ('seed = "7"', 7),
        ("resolution = [512, 768]", "512,768"), ("output_name = 7", "7"), ('save_every_n_steps = "5"', 5),
    ],
)  # fmt: skip
def test_a_text_that_holds_a_number_is_read_as_a_number(tmp_path, line, value):
    found = given(config(tmp_path, line))
    assert found.problems == []
    name = line.partition(" ")[0]
    (setting,) = [as_written(getattr(getattr(found.run, s), n)) for s, n, _ in fields_of(RunConfig) if n == name]
    assert (type(setting), setting) == (type(value), value)


@pytest.mark.parametrize(
    "line",
    ['max_token_length = "76"', 'max_token_length = "long"', 'clip_skip = "1.5"', 'cache_latents = "maybe"', 'seed = ""',
     'clip_skip = "two"', 'save_precision = 16', 'noise_offset = "0,1"', "clip_skip = [1]", 'max_train_steps = "inf"'],
)  # fmt: skip
def test_a_value_that_cannot_be_converted_is_one_error(tmp_path, line):
    (problem,) = given(config(tmp_path, line)).problems
    assert problem.severity == "error"
    assert f"`{line.partition(' ')[0]}`" in problem.where
