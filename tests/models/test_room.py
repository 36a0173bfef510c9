"""Room for the VAE: a model that leaves the GPU while images are converted, and comes back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from neonym import train
from neonym.generation.pipeline import Pipeline
from neonym.models.model import load_model
from neonym.models.room import move, room_for_vae
from neonym.models.vae import Vae
from support.families import tiny_model
from support.jobs import JOB, image_of


@pytest.fixture
def narrow(monkeypatch):
    """Let the VAE have memory only while the U-Net is away, and return the devices that the U-Net was moved to."""
    moves: list[str] = []
    clean = {name: getattr(Vae, name) for name in ("encode", "decode")}

    def to(self, *args, **kwargs):
        if type(self).__name__ == "UNet2DConditionModel" and args == (torch.device("cpu"),):
            moves.append("away" if len(moves) % 2 == 0 else "back")
        return move_module(self, *args, **kwargs)

    def convert(name: str, self, tensor):
        if moves[-1:] != ["away"]:
            raise torch.OutOfMemoryError("out of memory")
        return clean[name](self, tensor)

    def begin() -> list[str]:
        moves.clear()
        monkeypatch.setattr(nn.Module, "to", to)
        for name in clean:
            monkeypatch.setattr(Vae, name, lambda self, tensor, name=name: convert(name, self, tensor))
        return moves

    move_module = nn.Module.to
    return begin


def test_a_word_learns_the_same_and_images_are_the_same(run_for, narrow, tmp_path):
    """Training encodes all images while the model is away, and each sample image is decoded so."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a mychar4 --w 64 --h 64 --s 2")
    flags = {"sample_prompts": str(prompts), "sample_every_n_steps": 4}
    wide = train(run_for("wide", **flags))
    moves = narrow()
    found = train(run_for("narrow", **flags))
    assert found.files[0].read_bytes() == wide.files[0].read_bytes()
    sheets = [sorted((result.files[0].parent / "sample").glob("*_sheet.png")) for result in (wide, found)]
    assert len(sheets[0]) == len(sheets[1]) == 2
    for one, other in zip(*sheets, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert moves[:2] == ["away", "back"]
    assert len(moves) == 2 * (1 + 4)  # the images; without the word, before training, and after 4 and 8 steps


def test_images_are_generated_with_a_model_that_leaves_for_the_vae(narrow, tmp_path):
    model = load_model()
    expected = image_of(Pipeline(model), JOB)
    moves = narrow()
    assert np.array_equal(image_of(Pipeline(model), JOB), expected)
    assert moves == ["away", "back"]


def test_a_model_comes_back_after_an_error():
    model, moved = load_model(), []
    model.denoiser.to = lambda device: moved.append(device)  # pyright: ignore[reportAttributeAccessIssue]

    def fail():
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError), room_for_vae(model) as room:
        room(fail)
    assert len(moved) == 2


def test_a_denoiser_made_of_blocks_stays(tmp_path):
    model = load_model(str(tiny_model("flux1", tmp_path / "model")))
    calls: list[int] = []

    def fail():
        calls.append(1)
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError), room_for_vae(model) as room:
        room(fail)
    assert len(calls) == 1


def test_weights_that_are_moved_in_inference_mode_can_be_trained_through():
    layer = nn.Linear(2, 2).requires_grad_(False)
    with torch.inference_mode():
        move([layer], torch.device("meta"))
    x = torch.ones(1, 2, device="meta", requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
