"""Tests that a file given to the wrong flag is recognised, and that the message names the flag that takes it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neonym.cli.main import main
from neonym.config.file_kinds import file_kind, misplaced
from support.data_sets import make_images

GUI = {"LoRA_type": "Standard", "epoch": 1, "max_resolution": "512,512", "token_string": "x", "lr_warmup": 10}
ONETRAINER = {"training_method": "EMBEDDING", "base_model_name": "m", "embedding": {"token_count": 2}, "epochs": 3}
WEB_UI = {"embedding_name": "x", "learn_rate": "0.005", "data_root": "a", "steps": 100}
INVOKE = "type: SDXL_TEXTUAL_INVERSION\nbase_output_dir: o\noptimizer:\n  learning_rate: 1\nplaceholder_token: x\n"
TEXTS = {
    "job.toml": "[any]\noutput_dir = 'o'\nlearning_rate = 1\n",
    "data.toml": "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\n",
    "data.json": json.dumps({"datasets": [{"subsets": [{"image_dir": "a"}]}]}),
    "gui.json": json.dumps(GUI),
    "onetrainer.json": json.dumps(ONETRAINER),
    "concepts.json": json.dumps([{"path": "a", "image": {}, "text": {}}]),
    "settings.json": json.dumps(WEB_UI),
    "meta.json": json.dumps({"a.png": {"caption": "x", "tags": "y"}}),
    "meta.jsonl": '{"file_name": "a.png", "text": "x"}\n{"file_name": "b.png", "text": "x"}\n',
    "one.jsonl": '{"image_path": "a.png", "caption": "x"}\n',
    "flags.json": json.dumps({"token_string": "x", "learning_rate": 1, "output_dir": "o", "max_train_steps": 1}),
    "model_index.json": json.dumps({"_class_name": "StableDiffusionPipeline"}),
    "workflow.json": json.dumps({"1": {"class_type": "KSampler", "inputs": {}}}),
    "invoke.yaml": INVOKE,
    "toolkit.yaml": "---\njob: extension\nconfig:\n  process:\n    - embedding:\n        trigger: x\n",
    "accelerate.yaml": "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\n",
    "prompts.txt": "a photo of x --n blurry\n",
    "prompts.toml": "[prompt]\nwidth = 512\n[[prompt.subset]]\nprompt = 'x'\n",
    "prompts.json": json.dumps([{"prompt": "x"}]),
    "templates.txt": "a photo of [name]\n",
    "pointer.safetensors": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "page.ckpt": "<!DOCTYPE html><html></html>",
    "run.sh": "#!/bin/sh\naccelerate launch train_textual_inversion.py --token_string=x\n",
}
TENSORS = {
    "word.safetensors": {"emb_params": torch.ones(2, 768)},
    "xl.safetensors": {"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)},
    "dotted.safetensors": {"<a.b>": torch.ones(1, 768)},
    "model.safetensors": {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2, 4, 3, 3)},
    "lora.safetensors": {"lora_unet_a.lora_down.weight": torch.ones(2, 4)},
    "vae.safetensors": {"encoder.conv_in.weight": torch.ones(2, 4, 3, 3)},
}
PICKLES = {
    "word.pt": {"string_to_param": {"*": torch.ones(1, 768)}, "name": "x"},
    "learned_embeds.bin": {"<cat>": torch.ones(768)},
    "model.ckpt": {"state_dict": {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2, 4, 3, 3)}},
    "word.pt.optim": {"hash": "a", "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(1, 768)}}}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with files of every kind."""
    home = tmp_path_factory.mktemp("kinds")
    make_images(home / "images")
    make_images(home / "numbered" / "10_x")
    (home / "diffusers").mkdir()
    (home / "diffusers" / "model_index.json").write_text("{}")
    for name, text in TEXTS.items():
        (home / name).write_text(text)
    for name, tensors in TENSORS.items():
        save_file(tensors, home / name)
    for name, content in PICKLES.items():
        torch.save(content, home / name)
    torch.save(PICKLES["word.pt"], home / "old.pt", _use_new_zipfile_serialization=False)
    return home


EXPECTED = {  # file -> the flag that takes it, or a part of the message
    "job.toml": "--config_file", "data.toml": "--dataset_config", "data.json": "--dataset_config",
    "gui.json": "max_resolution is --resolution", "onetrainer.json": "token_count is --num_vectors_per_token",
    "concepts.json": "[[datasets.subsets]]", "settings.json": "learn_rate is --learning_rate", "meta.json": "--in_json",
    "meta.jsonl": "--in_json", "one.jsonl": "--in_json", "flags.json": "as TOML",
    "model_index.json": "--pretrained_model_name_or_path", "workflow.json": "ComfyUI",
    "invoke.yaml": "placeholder_token is --token_string", "toolkit.yaml": "trigger is --token_string",
    "accelerate.yaml": "accelerate launch", "prompts.txt": "--sample_prompts", "prompts.toml": "--sample_prompts",
    "prompts.json": "--sample_prompts", "templates.txt": "--template_file", "run.sh": "in a shell",
    "pointer.safetensors": "git lfs pull", "page.ckpt": "a web page",
    "word.safetensors": "--weights", "xl.safetensors": "--weights", "dotted.safetensors": "--weights",
    "model.safetensors": "--pretrained_model_name_or_path", "lora.safetensors": "--network_weights",
    "vae.safetensors": "--vae", "word.pt": "--weights", "old.pt": "--weights", "learned_embeds.bin": "--weights",
    "model.ckpt": "--pretrained_model_name_or_path", "word.pt.optim": "--weights", "images": "--train_data_dir",
    "numbered": "--train_data_dir", "diffusers": "--pretrained_model_name_or_path", "images/00.png": "--train_data_dir",
}  # fmt: skip
TAKEN = {
    "config_file": ["job.toml"],
    "dataset_config": ["data.toml", "data.json"],
    "pretrained_model_name_or_path": ["model.safetensors", "model.ckpt", "diffusers"],
    "weights": [name for name, flag in EXPECTED.items() if flag == "--weights" and not name.endswith(".optim")],
    "train_data_dir": ["images", "numbered"],
    "in_json": ["meta.json", "meta.jsonl", "one.jsonl"],
    "sample_prompts": ["prompts.txt", "prompts.toml", "prompts.json"],
    "template_file": ["templates.txt", "prompts.txt"],
    "vae": ["vae.safetensors", "model.safetensors", "model.ckpt", "diffusers"],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_kind_of_file_is_recognised(folder, name):
    found = misplaced(folder / name, "log_tracker_config")
    assert found is not None
    assert EXPECTED[name] in str(found)


@pytest.mark.parametrize("flag", TAKEN)
def test_a_flag_accepts_only_its_own_kinds(folder, flag):
    taken = {name for name in EXPECTED if misplaced(folder / name, flag) is None}
    # an image may contain an embedding
    assert taken - set(TAKEN[flag]) <= ({"images/00.png"} if flag == "weights" else set())
    assert set(TAKEN[flag]) <= taken


@pytest.mark.parametrize("flag", ["dataset_config", "config_file", "pretrained_model_name_or_path", "weights", "vae"])
@pytest.mark.parametrize("name", ["gui.json", "word.pt", "images", "lora.safetensors", "run.sh"])
def test_train_reports_a_misplaced_file_in_one_paragraph(folder, flag, name, capsys, tmp_path):
    """With no other mistake, the message has one line, and nothing is written."""
    given = {"token_string": "mychar4", "train_data_dir": folder / "images", "output_dir": tmp_path / "o"}
    if flag in ("dataset_config", "config_file"):
        del given["train_data_dir"], given["token_string"]
    if (flag, name) == ("weights", "word.pt"):
        assert misplaced(folder / name, flag) is None  # this flag accepts it
        return
    assert main(["train", f"--{flag}={folder / name}", *(f"--{k}={v}" for k, v in given.items())]) == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert EXPECTED[name] in output
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        ("ckpt", "word.pt"),
        ("ckpt", "job.toml"),
        ("textual_inversion_embeddings", "model.ckpt"),
        ("from_file", "data.toml"),
    ],
)
def test_generate_reports_a_misplaced_file(folder, flag, name, capsys, tmp_path):
    words = ["--prompt=a cat", f"--outdir={tmp_path / 'o'}", f"--{flag}", str(folder / name)]
    assert main(["generate", *words]) == 2
    output = capsys.readouterr().err
    assert f"--{flag}: {folder / name} is " in output
    assert output.count("\n") == 1


def test_a_file_of_an_unclear_kind_is_left_to_its_reader(tmp_path):
    broken = {
        "a.toml": b"[[datasets", "b.json": b'{"datasets": [', "c.safetensors": b"\xff\xff\0\0\0\0\0\0{", "d.pt": b"PK\3\4",
        "e.txt": b"", "f.bin": b"\0" * 99, "g.toml": b"\xff\xfe", "h.json": b"[" * 9000,
    }  # fmt: skip
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        assert file_kind(tmp_path / name) is None, name
    assert file_kind(tmp_path / "nothing") is None
    assert file_kind(Path("owner/model")) is None


def test_a_prompt_that_begins_like_a_command_is_a_prompt(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("python in a tree\nneonym sign over a bar\n")
    assert misplaced(file, "sample_prompts") is None
