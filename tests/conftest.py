"""Fixtures for all tests: no network, a small dataset, runs on the built-in model."""

import os
import socket

import pytest
import torch

from neonym.config.run import RunConfig
from neonym.formats import write_embedding
from neonym.training.concept import Concept
from neonym.training.objective import Objective
from neonym.types import Embedding
from support.checks import settings
from support.data_sets import make_images
from support.updates import Spoil, Update

# tests/training/test_cuda.py runs alone; all other tests assume a CPU in float32
if "NEONYM_TEST_CUDA" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """Give the tests a cache folder of their own, so that they leave the user's alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Let every test that connects to the network fail (law 7)."""

    def refuse(self, address):
        raise AssertionError(f"a test tried to connect to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def images(tmp_path):
    """Return a folder with six captioned images."""
    return make_images(tmp_path / "pictures")


@pytest.fixture
def run_for(tmp_path, images):
    """Return a function that builds the RunConfig of a short CPU run on `images` from flags."""

    def build(name: str = "out", **flags) -> RunConfig:
        base = {
            "train_data_dir": str(images), "token_string": "mychar4", "max_train_steps": 8, "eval_samples": 8,
            "output_dir": str(tmp_path / name), "cpu": True, "learning_rate": 0.005, "resolution": "64",
        }  # fmt: skip
        return settings(**{**base, **flags})

    return build


@pytest.fixture
def word(tmp_path):
    """Return an embedding file with the word `zyzzo` for the built-in model."""
    rows = 0.3 * torch.randn(2, 128, generator=torch.Generator().manual_seed(1))
    return write_embedding(Embedding("zyzzo", {"text_encoder": rows}), tmp_path / "zyzzo.safetensors")


@pytest.fixture
def spoiled(monkeypatch):
    """Return a function that multiplies the gradients of steps, {step: factor}; None means every step."""
    clean = Objective.loss

    def use(values: dict[int | None, float]) -> None:
        calls: list[int] = []

        def loss(self, prediction, noisy, mask=None):
            losses = clean(self, prediction, noisy, mask)
            if not losses.requires_grad:  # an evaluation
                return losses
            calls.append(1)
            return Spoil.apply(losses, values.get(len(calls) - 1, values.get(None, 1.0)))

        monkeypatch.setattr(Objective, "loss", loss)

    return use


@pytest.fixture
def updates(monkeypatch):
    """Return a list to which every optimizer update appends the values that it starts with."""
    seen: list[Update] = []
    clean = Concept.update

    def update(self, step):
        scale = self.scaler.get_scale() if self.scaler else 1.0
        seen.append(Update(self, step, scale, self.rows["text_encoder"].detach().clone()))
        clean(self, step)

    monkeypatch.setattr(Concept, "update", update)
    return seen
