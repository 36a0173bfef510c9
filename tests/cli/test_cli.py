"""The commands as users type them."""

import json
import os
import re
import resource
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from neonym.cli.main import main
from neonym.formats import read_embedding
from neonym.preflight import memory
from support import ROOT, WORD
from support.data_sets import make_images

SD_SCRIPTS_COMMAND = [
    "--dataset_config=cfg.toml",
    "--output_dir=out",
    "--output_name=mychar4",
    "--save_model_as=safetensors",
    "--prior_loss_weight=1.0",
    "--max_train_steps=1600",
    "--learning_rate=1e-6",
    "--optimizer_type=AdamW8bit",
    "--xformers",
    "--mixed_precision=fp16",
    "--cache_latents",
    "--gradient_checkpointing",
    "--token_string=mychar4",
    "--init_word=cute",
    "--num_vectors_per_token=4",
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with the dataset that SD_SCRIPTS_COMMAND names."""
    make_images(tmp_path / "pictures", 4, caption="mychar4 1girl")
    (tmp_path / "cfg.toml").write_text(
        "[general]\ncaption_extension = '.txt'\n[[datasets]]\nbatch_size = 2\n[[datasets.subsets]]\nimage_dir = 'pictures'\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_is_quick_and_does_not_import_torch():
    code = "import sys; from neonym.cli.main import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert "--learning_rate" in done.stdout
    assert "each written as `modelspec.NAME`" in done.stdout  # the description of a group of flags
    assert "pyright" not in done.stdout  # no comments from the source
    assert min(spent) < float(
        os.environ.get("NEONYM_HELP_SECONDS", "1.0")
    )  # CPU time, so that other processes do not count


def test_an_sd_scripts_command_runs_under_accelerate_launch(folder):
    """The command is unchanged except for its length."""
    flags = [f.replace("1600", "12") for f in SD_SCRIPTS_COMMAND]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_cpu_threads_per_process", "1"]
    command = [*launcher, str(ROOT / "train_textual_inversion.py"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    output = done.stdout + done.stderr
    for words in (
        "built-in",
        "AdamW8bit is replaced by AdamW",
        "fp16 -> fp32",
        "PyTorch's own attention",
        "can hardly be learned",
        "NOT LEARNED",
    ):
        assert words in output, output
    assert done.returncode == 0, output  # otherwise accelerate's traceback would follow the verdict
    assert output.rindex("NOT LEARNED") > output.rindex("step 12/12")
    assert output.rstrip().splitlines()[-1] == "  file: out/mychar4.safetensors"
    embedding = read_embedding(folder / "out" / "mychar4.safetensors")
    assert embedding.vectors["text_encoder"].shape == (4, 128)
    assert embedding.metadata["neonym.init_word"] == "cute"


def test_debug_dataset_prints_ids_and_stops(folder, capsys):
    assert main(["train", *SD_SCRIPTS_COMMAND, "--debug_dataset"]) == 0
    output = capsys.readouterr().out
    assert "caption: mychar4 1girl 0" in output
    assert "input ids: tensor([[49406, 49408, 49409, 49410, 49411, " in output
    assert "1 (49408), 2 (49409), 3 (49410), 4 (49411)" in output
    assert not (folder / "out").exists()


def test_check_takes_the_flags_of_training(folder, capsys):
    """They include flags that are not settings, on the command line and in a file."""
    job = folder / "job.toml"
    job.write_text("debug_dataset = true\n")
    for words in (["--debug_dataset"], ["--config_file", str(job)]):
        assert main(["check", *SD_SCRIPTS_COMMAND, *words]) == 0
        output = capsys.readouterr().out
        assert "1 (49408), 2 (49409), 3 (49410), 4 (49411)" in output
        assert output.endswith("ready to train\n")
    assert main(["check", *SD_SCRIPTS_COMMAND, "--debug_dataset", "--json"]) == 0
    json.loads(capsys.readouterr().out)
    assert main(["check", *SD_SCRIPTS_COMMAND, "--output_config", "--config_file", str(folder / "new.toml")]) == 0
    assert "--output_config has no effect here" in capsys.readouterr().out
    assert not (folder / "new.toml").exists()


def test_the_sdxl_script_refuses_other_models(folder, capsys, monkeypatch):
    """The built-in model is a Stable Diffusion 1.x model."""
    for words, message in (
        ([], "builtin:emoji is a model of Stable Diffusion 1.x, not of SDXL"),
        (["--v2"], "--v2 contradicts --sdxl"),
    ):
        monkeypatch.setattr(sys, "argv", ["sdxl_train_textual_inversion.py", *SD_SCRIPTS_COMMAND, *words])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(ROOT / "sdxl_train_textual_inversion.py"), run_name="__main__")
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_check_estimates_the_memory_of_a_step_where_there_may_be_a_gpu(folder, capsys, monkeypatch):
    """Each column saves something, and so does each precision."""
    monkeypatch.setattr(memory, "may_have_gpu", lambda: True)
    command = ["--train_data_dir=pictures", "--token_string=mychar4", "--train_batch_size=64", "--resolution=256"]
    assert main(["check", *command]) == 0
    head, *lines = (line for line in capsys.readouterr().out.splitlines() if line.startswith(("GB of", "    ")))
    assert re.split(r"\s{2,}", head)[1:] == ["as it is", "one at a time", "checkpointing"]
    found = {line.split()[0]: [float(cell) for cell in line.split()[1:]] for line in lines}
    assert set(found) == {"bf16", "fp8", "int8", "nf4"}
    whole, one, checkpointed = found["bf16"]
    assert whole > 1.2 > one >= checkpointed
    assert found["nf4"] <= found["bf16"]
    assert main(["check", *command, "--json", "--cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["memory"] == {}


def test_check_json_lists_problems_data_sets_and_items(folder, capsys):
    assert main(["check", *SD_SCRIPTS_COMMAND, "--json", "--draws", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"problems", "defaults", "memory", "datasets", "config", "items"}
    assert found["config"][0]["settings"]["batch_size"] == 2
    assert found["config"][0]["origins"]["batch_size"] == "dataset"
    assert all(set(p) == {"severity", "what", "where", "fix"} for p in found["problems"])
    assert found["datasets"] == [
        {
            "resolution": [128, 128], "batch_size": 2, "bucket_limits": None, "bucket_sizes": [[128, 128]],
            "buckets": [{"size": [128, 128], "count": 4}], "training_items": 4, "regularisation_items": 0,
            "held_out_items": 0, "steps_per_epoch": 2,
        }
    ]  # fmt: skip
    item = found["items"][0]
    assert item["path"].endswith("00.png")
    assert item["caption"] == "mychar4 1girl 0"
    assert item["captions"] == ["mychar4 1girl 0"] * 2
    assert item["crop_ltrb"] == [0, 0, 128, 128]
    assert item["ids"]["text_encoder"][0][:6] == [49406, 49408, 49409, 49410, 49411, 272]
    assert len(item["ids"]["text_encoder"][0]) == 77
    assert item["learned_positions"] == {"text_encoder": [1, 2, 3, 4]}
    assert item["cached"] is False


def test_mistakes_are_reported_with_exit_code_2(folder, capsys):
    (folder / "cfg.toml").write_text("[[datasets]]\nbatchsize = 2\n[[datasets.subsets]]\nimage_dir = 'nowhere'\n")
    assert main(["check", "--dataset_config=cfg.toml", "--token_string=mychar4"]) == 2
    assert "Did you mean `batch_size`?" in capsys.readouterr().out
    assert main(["train", "--dataset_config=cfg.toml", "--token_string=mychar4", "--output_dir=out"]) == 2
    assert not Path("out").exists()


def test_an_unknown_flag_is_an_error_that_suggests_the_nearest_one(capsys):
    assert main(["train", "--lerning_rate=1"]) == 2
    assert "--learning_rate" in capsys.readouterr().err


def test_inspect_shows_a_trained_word(folder, capsys):
    assert main(["train", *[f.replace("1600", "2") for f in SD_SCRIPTS_COMMAND], "--eval_samples=8"]) in (0, 3)
    capsys.readouterr()
    assert main(["inspect", "out/mychar4.safetensors", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["token"] == "mychar4"
    assert found["encoders"]["text_encoder"]["vectors"] == 4
    assert main(["inspect", "out/mychar4.safetensors"]) == 0
    assert "the built-in model" in capsys.readouterr().out
    assert main(["inspect", "out/none.safetensors"]) == 2


def test_the_version_is_shown_and_unknown_commands_are_refused(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("neonym ")
    assert main(["trian"]) == 2
    assert "Did you mean `train`?" in capsys.readouterr().err
    assert main([]) == 2


def test_intermediate_files_are_saved_and_old_ones_removed(folder):
    flags = [f.replace("1600", "12") for f in SD_SCRIPTS_COMMAND if "checkpointing" not in f]
    assert main(["train", *flags, "--eval_samples=8", "--save_every_n_steps=3", "--save_last_n_steps=3"]) in (0, 3)
    names = sorted(f.name for f in Path("out").glob("*.safetensors"))
    assert names == ["mychar4-step00000009.safetensors", "mychar4-step00000012.safetensors", "mychar4.safetensors"]
    events = [json.loads(line) for line in Path("out/mychar4-run/events.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(1, 13))
    assert events[-1]["event"] == "finished"


def test_held_out_images_are_evaluated(folder):
    make_images(folder / "pictures", 12, caption="mychar4 1girl")
    flags = ["--dataset_config=cfg.toml", "--token_string=mychar4", "--max_train_steps=6", "--validation_split=0.4",
             "--eval_every_n_steps=3", "--eval_samples=8"]  # fmt: skip
    assert main(["train", *flags, "--output_dir=out", "--cache_latents_to_disk", "--latent_cache_dir=cache"]) in (0, 3)
    verdict = json.loads(Path("out/mychar4-run/verdict.json").read_text())[0]
    assert verdict["evaluated_on"] == "held-out images"
    assert len(list(Path("cache").iterdir())) == 12
    events = [json.loads(line) for line in Path("out/mychar4-run/events.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "evaluated"] == [0, 3, 6]


def test_print_config_shows_every_value_and_its_origin(tmp_path, capsys):
    make_images(tmp_path / "a", 2)
    file = tmp_path / "t.toml"
    file.write_text(
        f"[general]\nflip_aug = true\n[[datasets]]\nbatch_size = 2\n[[datasets.subsets]]\nimage_dir = '{tmp_path / 'a'}'\n"
    )
    assert (
        main(
            [
                "check",
                "--dataset_config",
                str(file),
                "--token_string",
                WORD,
                "--keep_tokens=1",
                "--background=red",
                "--print_config",
            ]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    for line in (
        'token_string = "mychar4"  # command line', 'background = "red"  # command line', "masked_loss = false  # default", "batch_size = 2  # dataset", "flip_aug = true  # general",
        "keep_tokens = 1  # command line", "num_repeats = 1  # default", f'image_dir = "{tmp_path / "a"}"  # subset',
    ):  # fmt: skip
        assert line in lines


def test_the_default_resolution_is_the_models(images, capsys):
    assert main(["check", "--print_config", "--train_data_dir", str(images), "--token_string", "mychar4"]) == 0
    assert "resolution = [128, 128]  # the model" in capsys.readouterr().out
