"""Room for the VAE: a model that leaves the GPU while images are converted, and comes back whatever happens.

On a CPU, `Places` stand for the devices: what is moved stays where it is, and only the order is written down.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from neonym import train
from neonym.config.generate import GenerateSettings
from neonym.errors import UserError
from neonym.generation.pipeline import Pipeline
from neonym.generation.request.prepare import prepare
from neonym.generation.run import GenerationSession
from neonym.models import room as rooms
from neonym.models.model import Model, load_model
from neonym.models.room import NoWayBackError, is_together, move, room_for_vae
from neonym.models.vae import Vae
from neonym.training.load import KeptModel
from support.families import tiny_model
from support.jobs import JOB, image_of

GPU, CPU = torch.device("cuda"), torch.device("cpu")


class Places:
    """The places of the parts of all models, told by their moves. The VAE has memory while the U-Net is on the CPU."""

    def __init__(self) -> None:
        self.moves: list[tuple[int, torch.device]] = []  # how many parts are moved, and where to
        self.errors: list[BaseException] = []  # of the moves to come

    def move(self, modules: list[nn.Module], device: torch.device) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.moves.append((len(modules), device))

    @contextmanager
    def narrow(self, monkeypatch) -> Iterator[None]:
        """Let models be on a GPU that is too small for them and the VAE, for the duration of the block."""
        clean = {name: getattr(Vae, name) for name in ("encode", "decode")}

        def convert(name: str, vae, tensor):
            if self.moves[-1:] != [(2, CPU)]:
                raise torch.OutOfMemoryError("out of memory")
            return clean[name](vae, tensor)

        class OnGpu(rooms.Room):
            def __init__(self, model: Model):
                super().__init__(model)
                self.device = GPU

        with monkeypatch.context() as patch:
            patch.setattr(rooms, "move", self.move)
            patch.setattr(rooms, "Room", OnGpu)
            for name in clean:
                patch.setattr(Vae, name, lambda vae, tensor, name=name: convert(name, vae, tensor))
            yield


def test_a_word_learns_the_same_and_sample_images_are_the_same(run_for, monkeypatch, tmp_path):
    """Training encodes all images while the model is away, and decodes each sample image so."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a mychar4 --w 64 --h 64 --s 2")
    flags = {"sample_prompts": str(prompts), "sample_every_n_steps": 4}
    wide, places = train(run_for("wide", **flags)), Places()
    with places.narrow(monkeypatch):
        found = train(run_for("narrow", **flags))
    assert found.files[0].read_bytes() == wide.files[0].read_bytes()
    sheets = [sorted((result.files[0].parent / "sample").glob("*_sheet.png")) for result in (wide, found)]
    assert len(sheets[0]) == len(sheets[1]) == 2
    for one, other in zip(*sheets, strict=True):
        assert one.read_bytes() == other.read_bytes()
    # the images of the data set; without the word, before training, and after 4 and 8 steps
    assert places.moves == [(2, CPU), (2, GPU)] * (1 + 4)


def test_images_are_generated_with_a_model_that_leaves_for_the_vae(monkeypatch):
    model, places = load_model(), Places()
    expected = image_of(Pipeline(model), JOB)
    with places.narrow(monkeypatch):
        assert np.array_equal(image_of(Pipeline(model), JOB), expected)
    assert places.moves == [(2, CPU), (2, GPU)]


def lack(*_):
    raise torch.OutOfMemoryError("out of memory")


def test_a_model_comes_back_after_an_error_of_the_vae(monkeypatch):
    """The activations of the VAE are gone by then: their memory is needed."""
    model, places, held = load_model(), Places(), []

    class Activations:
        def __del__(self):
            held.append(len(places.moves))

    def fails():
        activations = Activations()
        return lack(activations)

    with places.narrow(monkeypatch), pytest.raises(torch.OutOfMemoryError), room_for_vae(model) as room:
        room(fails)
    assert places.moves == [(2, CPU), (2, GPU)]
    assert held == [0, 1]  # before each of the moves


def test_a_move_that_is_interrupted_is_undone(monkeypatch):
    model, places = load_model(), Places()
    places.errors = [KeyboardInterrupt()]
    with places.narrow(monkeypatch), pytest.raises(KeyboardInterrupt), room_for_vae(model) as room:
        room(lack)
    assert places.moves == [(2, GPU)]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), torch.OutOfMemoryError("another program took it")])
def test_the_way_back_is_tried_twice(monkeypatch, error):
    model, places = load_model(), Places()
    latents = torch.zeros(1, 4, 8, 8)

    def decoded() -> torch.Tensor:
        return model.vae.decode(latents)

    def decode() -> None:
        with places.narrow(monkeypatch), room_for_vae(model) as room:
            room(decoded)
            places.errors = [error]

    with pytest.raises(type(error)):
        decode()
    assert places.moves == [(2, CPU), (2, GPU)]


def test_a_model_that_cannot_come_back_ends_the_run_and_is_not_kept(run_for, monkeypatch, tmp_path):
    """Sample images that fail are no reason to end, but a model in two places is."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a mychar4 --w 64 --h 64 --s 2")
    places = Places()
    clean = places.move

    def once(modules, device):
        if device == GPU and len(places.moves) > 2:
            lack()
        clean(modules, device)

    places.move = once
    with places.narrow(monkeypatch), pytest.raises(Exception, match="does not fit on its device again") as raised:
        train(run_for("lost", sample_prompts=str(prompts), sample_every_n_steps=4, max_train_steps=8))
    assert "step 4 is saved" in str(raised.value)
    assert issubclass(NoWayBackError, torch.OutOfMemoryError)

    model, loads = load_model(), []
    kept = KeptModel()
    kept.get((), lambda: loads.append(1) or model)
    assert is_together(model)
    assert kept.get((), load_model) is model
    move([model.denoiser], torch.device("meta"))
    assert not is_together(model)
    assert kept.get((), load_model) is not model


def test_generation_says_that_a_model_is_in_two_places(tmp_path):
    """Prompts that are typed after such an error end with the same paragraph."""
    session = GenerationSession(prepare(GenerateSettings(prompt=("a cat",), cpu=True, outdir=str(tmp_path))))
    move([session.model.denoiser], torch.device("meta"))
    with pytest.raises(UserError, match="could not return to the GPU"):
        next(session.generate([JOB]))


def test_models_of_blocks_and_those_that_the_cpu_does_not_hold_stay(monkeypatch, tmp_path):
    flux, small = load_model(str(tiny_model("flux1", tmp_path / "model"))), load_model()
    for model in (flux, small):
        places, calls = Places(), []
        monkeypatch.setattr(rooms.psutil, "virtual_memory", lambda model=model: Memory(1 if model is small else 1e12))
        with places.narrow(monkeypatch), pytest.raises(torch.OutOfMemoryError), room_for_vae(model) as room:
            room(lambda calls=calls: calls.append(1) or lack())
        assert (len(calls), places.moves) == (1, [])


class Memory:
    """The memory of a machine."""

    def __init__(self, available: float):
        self.available = available


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    model, places = load_model(), Places()

    def fail():
        raise RuntimeError("shapes do not fit")

    with places.narrow(monkeypatch), pytest.raises(RuntimeError, match="shapes"), room_for_vae(model) as room:
        room(fail)
    assert places.moves == []

    def short():
        if not places.moves:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        return torch.ones(1)

    with places.narrow(monkeypatch), room_for_vae(model) as room:
        assert room(short) == 1
    assert places.moves == [(2, CPU), (2, GPU)]


def test_weights_that_are_moved_in_inference_mode_can_be_trained_through():
    layer = nn.Linear(2, 2).requires_grad_(False)
    with torch.inference_mode():
        move([layer], torch.device("meta"))
    x = torch.ones(1, 2, device="meta", requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
