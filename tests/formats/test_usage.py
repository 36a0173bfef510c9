"""Verify the usage card beside an embedding file: it describes what each program does, and its command works."""

import json
import re
import shlex

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.checkpoints import make_parts, single_file_tensors
from neonym import train
from neonym.cli.main import main
from neonym.formats import read_embedding, write_embedding
from neonym.formats.usage import usage_card
from neonym.types import Embedding
from support.checks import settings
from support.data_sets import make_images

SD1 = {"text_encoder": torch.randn(2, 768, generator=torch.Generator().manual_seed(5))}
SDXL = SD1 | {"text_encoder_2": torch.randn(2, 1280, generator=torch.Generator().manual_seed(6))}


def rows_of(card: str) -> dict[str, list[str]]:
    """Return the cells of each program's row."""
    lines = [line.strip("| ").split("|") for line in card.splitlines() if line.startswith("| ")][1:]
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in lines}


def command_of(card: str) -> list[str]:
    return shlex.split(re.findall(r"```\n(neonym generate .*)\n```", card)[-1])[1:]


def card_of(path, vectors=SD1, **metadata) -> str:
    return usage_card(word := Embedding("zyzzo", vectors, metadata), write_embedding(word, path))


def test_every_program_has_a_row(tmp_path):
    rows = rows_of(card_of(tmp_path / "zyzzo.safetensors"))
    assert list(rows) == [
        "AUTOMATIC1111", "Forge", "ComfyUI", "InvokeAI", "SD.Next", "stable-diffusion.cpp", "sd-scripts", "OneTrainer",
    ]  # fmt: skip
    assert rows["AUTOMATIC1111"] == ["embeddings/", "`a photo of zyzzo`"]
    assert rows["ComfyUI"] == ["models/embeddings/", "`a photo of embedding:zyzzo`"]
    assert rows["InvokeAI"][1] == "`a photo of <zyzzo>`"
    assert rows["OneTrainer"][0].startswith("refuses it: it reads emp_params")
    assert rows_of(card_of(tmp_path / "zyzzo.pt"))["OneTrainer"][0].startswith("its base embedding")


def test_programs_with_their_own_spelling_of_names(tmp_path):
    rows = rows_of(card_of(tmp_path / "Zy.zzo.ckpt"))
    assert rows["ComfyUI"] == ["models/embeddings/ (by its whole name)", "`a photo of embedding:Zy.zzo.ckpt`"]
    assert rows["InvokeAI"] == ["the model manager, as a new model (outside of ( ) only)", "`a photo of <Zy.zzo>`"]
    assert rows["stable-diffusion.cpp"][1] == "`a photo of zy.zzo`"
    assert rows["AUTOMATIC1111"][0] == "ignores .ckpt files"
    rows = rows_of(card_of(tmp_path / "a,b.pt"))
    assert rows["InvokeAI"][0].startswith("reads it, but prompts cannot contain its name")
    half = {"text_encoder": SD1["text_encoder"].half()}
    assert rows_of(card_of(tmp_path / "half.pt", half))["stable-diffusion.cpp"][0].startswith("misreads it")


@pytest.mark.parametrize("vectors", [SD1, SDXL])
def test_an_image_card_is_registered_under_its_file_name(tmp_path, vectors):
    """AUTOMATIC1111 and Forge use the name in an image card, so it is the file name; Neonym keeps the name of the word."""
    first = write_embedding(Embedding("zyzzo", vectors), tmp_path / "a.png")
    assert main(["convert", str(first), str(tmp_path / "b.png")]) == 0
    for name in ("a", "b"):
        path = tmp_path / f"{name}.png"
        assert read_embedding(path).token == "zyzzo"
        with Image.open(path) as card:
            import base64

            table = json.loads(base64.b64decode(card.info["sd-ti-embedding"]))
        assert table.get("name", name) == name
        assert rows_of(usage_card(read_embedding(path), path))["Forge"] == ["embeddings/", f"`a photo of {name}`"]


def test_another_name_in_an_image_card_is_reported(tmp_path, capsys):
    path = write_embedding(Embedding("zyzzo", SD1), tmp_path / "a.png").rename(tmp_path / "c.png")
    assert rows_of(usage_card(read_embedding(path), path))["Forge"][1] == "`a photo of a`"
    assert main(["inspect", str(path)]) == 0
    assert "Forge: reads it, as `a`: the name in the card" in capsys.readouterr().out


def test_the_command_names_the_model(tmp_path):
    assert command_of(card_of(tmp_path / "a.pt"))[:3] == ["generate", "--ckpt", "MODEL"]
    base = {"neonym.base_model": "my models/sd $15.safetensors"}
    words = command_of(card_of(tmp_path / "it's !.pt", **base))
    assert words[words.index("--ckpt") + 1] == "my models/sd $15.safetensors"
    assert words[words.index("--prompt") + 1] == "a photo of it's !"
    assert words[-1] == str(tmp_path / "it's !.pt")


def test_diffusers_gets_another_name_for_a_word_in_its_vocabulary(tmp_path):
    assert 'token="<cat>"' in card_of(tmp_path / "Cat.safetensors")
    assert 'token="squirrel"' in card_of(tmp_path / "squirrel.safetensors")


def test_the_command_of_a_run_works(tmp_path, images):
    """The word was trained on the built-in model, so only Neonym can use it."""
    out = tmp_path / "out put"
    run = settings(
        train_data_dir=str(images), token_string="mychar4", max_train_steps=1, output_dir=str(out), clip_skip=2,
        resolution="64", eval_samples=8, output_name="m(y) char",
    )  # fmt: skip
    card = train(run).files[0].with_suffix(".md").read_text()
    assert "Only Neonym can use it" in card
    assert not rows_of(card)
    command = command_of(card)
    assert command[command.index("--clip_skip") + 1] == "2"
    more = ["--steps", "1", "--W", "64", "--H", "64", "--outdir", str(tmp_path / "images")]
    assert main([*command, *more]) == 0
    assert len(list((tmp_path / "images").glob("*.png"))) == 1


def test_the_command_of_a_run_on_a_checkpoint_works(tmp_path, images):
    """The model is a checkpoint file in another folder, with a space in its path, named as in the training."""
    model = tmp_path / "my models" / "tiny.safetensors"
    model.parent.mkdir()
    save_file(single_file_tensors(make_parts("sd1", tiny=True), "sd1"), model)
    run = settings(
        train_data_dir=str(images), token_string="mychar4", max_train_steps=1, output_dir=str(tmp_path / "out"),
        pretrained_model_name_or_path=str(model), resolution="64", eval_samples=8,
    )  # fmt: skip
    command = command_of(train(run).files[0].with_suffix(".md").read_text())
    more = ["--steps", "1", "--W", "64", "--H", "64", "--outdir", str(tmp_path / "images")]
    assert main([*command, *more]) == 0
    assert len(list((tmp_path / "images").glob("*.png"))) == 1


def test_problematic_names_are_reported_before_training(tmp_path, capsys):
    for word, warning in (
        ("abig", "diffusers and sd-scripts refuse it"),
        ("squirrel", "is an ordinary word"),
        ("a,b", "InvokeAI"),
    ):
        data = make_images(tmp_path / word, 2, caption=f"a sticker of a {word}")
        assert main(["check", f"--train_data_dir={data}", f"--token_string={word}"]) == 0
        printed = capsys.readouterr().out
        assert warning in printed
        assert ("diffusers" in printed) == (word == "abig")
