"""Verify, for every family of rectified flows, what no family should have to do by itself: train, resume, generate.

The models are tiny and random, so what is learned is noise; that every row gets a gradient, and nothing else does, is
not.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from neonym import generate, read_embedding, train
from neonym.models.loading.identify import identify
from neonym.models.model import Model, load_model
from neonym.training.objective import Objective
from neonym.training.step import sample_losses
from neonym.types import Batch
from support import BATCH_INVARIANT, WORD
from support.batches import CAPTIONS, batch_of
from support.checks import settings
from support.data_sets import make_images
from support.families import FAMILIES, SIDE, tiny_model


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory) -> Path:
    return tiny_model(request.param, tmp_path_factory.mktemp(request.param) / "model")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), count=3, size=(SIDE, SIDE), caption=f"a photo of {WORD}")


def with_word(model: Model, count: int = 2) -> dict[str, torch.Tensor]:
    """Add a word of random rows to a model, and return the rows, which get gradients."""
    generator = torch.Generator().manual_seed(1)
    rows = {
        name: torch.randn(count, table.frozen.embedding_dim, generator=generator).requires_grad_()
        for name, table in model.text.tables.items()
    }
    model.text.add_word(WORD, rows)
    return rows


def test_a_gradient_reaches_every_row_and_nothing_else(folder):
    model = load_model(str(folder))
    rows = with_word(model)
    sample_losses(model, batch_of(model, CAPTIONS), Objective()).sum().backward()
    for name, own in rows.items():
        assert own.grad is not None, name
        assert own.grad.abs().sum(1).gt(0).all(), name
    assert all(p.grad is None and not p.requires_grad for m in model.modules().values() for p in m.parameters())


def test_the_loss_is_that_of_a_rectified_flow(folder):
    """The loss is the mean of |noise - x_0 - v|^2, in float64, with the noise and the levels of the process."""
    model = load_model(str(folder))
    batch = batch_of(model, CAPTIONS)
    with torch.no_grad():
        losses = sample_losses(model, batch, Objective())
        x0 = model.vae.draw(batch.moments, batch.keys)
        noisy = model.process.add_noise(x0, batch.keys, batch.levels)
        sigma = (noisy.t.double() / 1000)[:, None, None, None]
        noise = (noisy.x_t.double() - (1 - sigma) * x0.double()) / sigma  # from x_t alone
        v = model.predict(noisy.x_t, noisy.t, model.text.encode(batch.text), batch.conditions).double()
    expected = (noise - x0.double() - v).square().mean((1, 2, 3))
    torch.testing.assert_close(losses.double(), expected, rtol=1e-4, atol=0)


def test_no_sample_depends_on_its_neighbours(folder):
    """On a CPU, a sample gives the same bits alone as in a batch of captions of unlike length."""
    model = load_model(str(folder))
    with_word(model)
    with torch.no_grad():
        together = sample_losses(model, batch_of(model, CAPTIONS), Objective())
        batch = batch_of(model, CAPTIONS)
        for i, caption in enumerate(CAPTIONS):
            alone = Batch(
                batch.moments[i : i + 1], model.text.batch([caption]), batch.keys[i : i + 1],
                batch.levels[i : i + 1], batch.concept[:1], batch.weight[:1],
            )  # fmt: skip
            difference = (sample_losses(model, alone, Objective())[0] - together[i]).abs()
            assert difference <= (0 if BATCH_INVARIANT else 1e-5), caption


def test_a_word_is_learned_resumed_read_back_and_generated(folder, images, tmp_path):
    def run(name: str, steps: int):
        return settings(
            pretrained_model_name_or_path=str(folder), train_data_dir=str(images), token_string=WORD, init_word="cat",
            num_vectors_per_token=2, resolution=str(SIDE), enable_bucket=False, train_batch_size=2,
            max_train_steps=steps, output_dir=str(tmp_path / name), output_name=WORD, seed=3, learning_rate=1e-2,
            lr_warmup_steps=0, lr_scheduler="constant", eval_samples=8,
        )  # fmt: skip

    (whole,) = train(run("whole", 4)).files
    train(run("parts", 2))
    (parts,) = train(run("parts", 4)).files
    assert {k: v.tolist() for k, v in load_file(whole).items()} == {k: v.tolist() for k, v in load_file(parts).items()}
    embedding, source = read_embedding(whole), identify(str(folder))
    assert set(embedding.vectors) == set(source.encoders)
    assert embedding.metadata["neonym.family"] == source.family.name
    shared = {
        "model": load_model(str(folder)),
        "words": [f"{WORD}={whole}"],
        "seed": 1,
        "steps": 2,
        "size": (SIDE, SIDE),
    }
    first, again = (generate(f"a photo of {WORD}", **shared)[0] for _ in range(2))
    assert first.tobytes() == again.tobytes() != generate("a photo of a cat", **shared)[0].tobytes()
