"""Pictures: repeatable, and different with the word."""

import numpy as np
import pytest
import torch
from PIL import Image

from neonym.cli.main import main
from neonym.errors import ModelError
from neonym.formats import write_embedding
from neonym.generation.images import add_files, draw
from neonym.models.family import load_model
from neonym.types import Embedding

PROMPT = ["a sticker of a zyzzo on a blue background"]


@pytest.fixture
def word(tmp_path):
    rows = 0.3 * torch.randn(2, 128, generator=torch.Generator().manual_seed(1))
    return write_embedding(Embedding("zyzzo", {"text_encoder": rows}), tmp_path / "zyzzo.safetensors")


def pixels(pictures):
    return [np.asarray(p) for p in pictures]


def test_the_word_changes_the_picture_and_the_seed_repeats_it(word):
    model = load_model()
    (without,) = pixels(draw(model, PROMPT, [3], steps=4))
    add_files(model, [word])
    (first,), (again,) = pixels(draw(model, PROMPT, [3], steps=4)), pixels(draw(model, PROMPT, [3], steps=4))
    (other,) = pixels(draw(model, PROMPT, [4], steps=4))
    assert first.shape == (128, 128, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, without)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "euler_a", "dpmsolver++"])
def test_every_sampler_draws(sampler):
    (picture,) = pixels(draw(load_model(), PROMPT, [0], steps=3, sampler=sampler, size=(64, 128)))
    assert picture.shape == (128, 64, 3)
    assert picture.std() > 1


def test_an_embedding_of_another_width_is_refused(tmp_path):
    path = write_embedding(Embedding("wide", {"text_encoder": torch.ones(1, 768)}), tmp_path / "wide.safetensors")
    with pytest.raises(ModelError, match="768 numbers, this model's words have 128"):
        add_files(load_model(), [path])


def test_the_command(word, tmp_path, capsys):
    code = main(
        ["generate", "--textual_inversion_embeddings", str(word), "--prompt", PROMPT[0], "a dog", "--steps", "2",
         "--images_per_prompt", "2", "--outdir", str(tmp_path / "images"), "--seed", "5"]
    )  # fmt: skip
    assert code == 0
    files = sorted((tmp_path / "images").iterdir())
    assert [f.name for f in files] == [f"im_{i:06d}_{5 + i}.png" for i in range(4)]
    with Image.open(files[1]) as picture:
        assert picture.text["prompt"] == PROMPT[0]
        assert picture.text["seed"] == "6"
    assert main(["generate", "--textual_inversion_embeddings", str(word), "--prompt", "a dog", "--steps", "1",
                 "--outdir", str(tmp_path / "images")]) == 0  # fmt: skip
    assert "no prompt uses `zyzzo`" in capsys.readouterr().out
    assert main(["generate"]) == 2
