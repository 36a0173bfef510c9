"""Verify that a step without numbers takes the memory of a real one, and what of it depends on the size of images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.checkpoints import make_parts, save_folder
from neonym.models.activations import Allocated, counted_activations, model_without_weights, peak_bytes, take_step
from neonym.models.encoders.blocks import checkpointed
from neonym.models.encoders.rows import Rows
from neonym.models.loading.identify import identify
from neonym.models.loading.sizes import activations_of
from neonym.models.memory import Step
from neonym.models.model import Model
from neonym.models.source import ModelSource
from neonym.models.tokenizers.loading import load_tokenizers
from support.families import FAMILIES, SIDE, tiny_model

STEP = Step((128, 128), width=4)


@pytest.fixture(scope="module", params=["builtin", "sd2", "sdxl"])
def source(request, tmp_path_factory) -> ModelSource:
    if request.param == "builtin":
        return identify("builtin:emoji")
    folder = tmp_path_factory.mktemp(request.param) / "model"
    save_folder(make_parts(request.param, tiny=True, dtype=torch.float32), request.param, folder, "epsilon")
    return identify(str(folder))


def empty_model(source: ModelSource) -> Model:
    return model_without_weights(source, load_tokenizers(source), torch.float32)


def real_model(source: ModelSource) -> Model:
    """Return the same model with random weights on the CPU."""
    model = empty_model(source)
    for module in model.modules().values():
        module.to_empty(device="cpu")
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        for buffer in module.buffers():  # such as the positions of ids
            buffer.copy_(torch.arange(buffer.numel()).view_as(buffer))
    for table in model.text.tables.values():
        table.rows[:] = [Rows(torch.zeros(1, table.frozen.embedding_dim))]
    return model


def allocated(model: Model, run) -> Allocated:
    weights = [own for module in model.modules().values() for own in (*module.parameters(), *module.buffers())]
    with Allocated(weights) as found:
        run()
    return found


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_without_numbers_takes_exactly_the_memory_of_a_real_one(source, checkpointing):
    """Attention is computed step by step in both, as it always is without numbers."""
    models = empty_model(source), real_model(source)
    if checkpointing:
        for model in models:
            model.denoiser.enable_gradient_checkpointing(checkpointed)  # pyright: ignore[reportCallIssue]
    with sdpa_kernel(SDPBackend.MATH):
        empty, real = (allocated(model, lambda model=model: take_step(model, STEP)) for model in models)
    assert empty.peak == real.peak > 1_000_000
    assert empty.now == real.now < 100_000  # the gradients of the rows


@pytest.mark.parametrize("family", ["flux1", "zimage", "anima"])
def test_a_step_of_a_flow_takes_little_more_than_without_numbers(tmp_path, family):
    """The masks that transformers makes where it sees padding, small in a model of full size, are not counted."""
    source = identify(str(tiny_model(family, tmp_path / "model")))
    with sdpa_kernel(SDPBackend.MATH):
        models = empty_model(source), real_model(source)
        empty, real = (allocated(model, lambda model=model: take_step(model, STEP)) for model in models)
    assert empty.peak == pytest.approx(real.peak, rel=0.01)


def test_what_is_counted_is_what_a_fused_kernel_takes(source):
    """On a CPU, too, torch has a kernel that keeps no matrix of all pairs of tokens."""
    model, counted = real_model(source), counted_activations(source, load_tokenizers(source), STEP)
    assert allocated(model, lambda: take_step(model, STEP)).peak == pytest.approx(counted.plain, rel=0.02)
    model.denoiser.enable_gradient_checkpointing(checkpointed)  # pyright: ignore[reportCallIssue]
    assert allocated(model, lambda: take_step(model, STEP)).peak == pytest.approx(counted.checkpointed, rel=0.02)
    pixels = torch.zeros(1, 3, 128, 128)
    assert allocated(model, lambda: model.vae.encode(pixels)).peak == pytest.approx(counted.encoding, rel=0.2)


def test_memory_grows_with_the_pixels_and_not_with_their_square():
    source = identify("builtin:emoji")
    tokenizers = load_tokenizers(source)
    small, large = (
        counted_activations(source, tokenizers, replace(STEP, size=size)) for size in ((256, 256), (512, 512))
    )
    for before, after in zip(small, large, strict=True):
        assert 3 * before < after < 4.5 * before
    half = counted_activations(source, tokenizers, Step((256, 256), width=2))
    assert half.plain == pytest.approx(small.plain / 2, rel=0.1)
    longer = counted_activations(source, load_tokenizers(source, 225), Step((256, 256), width=2, chunks=3))
    assert longer.plain > half.plain
    assert 0 < half.checkpointed < half.plain


def test_weights_and_what_is_freed_are_not_counted():
    source = identify("builtin:emoji")
    model = empty_model(source)
    weight = next(model.denoiser.parameters())

    def run() -> None:
        for _ in range(3):
            torch.empty(2, 1000, device="meta")
        weight.detach().view(-1)

    assert peak_bytes(model, run) == 8192  # 8,000 bytes as an allocator rounds them


def test_a_model_that_cannot_be_made_has_no_activations(monkeypatch):
    """Another process tries again: what was wrong may have been outside it."""
    source = identify("builtin:emoji")
    configs = {**source.configs, "unet": {**source.configs["unet"], "down_block_types": ["Unknown"]}}
    broken, tokenizers = replace(source, configs=configs), load_tokenizers(source)
    assert activations_of(broken, tokenizers, STEP) is None
    monkeypatch.setattr("neonym.models.activations.counted_activations", lambda *_: (1.0, 2.0, 3.0))
    assert activations_of(broken, tokenizers, STEP) is None
    monkeypatch.setattr("neonym.models.loading.sizes._uncountable", set())
    assert activations_of(broken, tokenizers, STEP) == (1.0, 2.0, 3.0)
    monkeypatch.setattr("neonym.models.activations.counted_activations", lambda *_: pytest.fail("counted again"))
    assert activations_of(broken, tokenizers, STEP) == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_activations_of_every_family_are_counted(tmp_path, family):
    """Emphasis makes some text encoders read an empty text, too, and an encoder that learns nothing keeps nothing."""
    source = identify(str(tiny_model(family, tmp_path / "model")))
    tokenizers, step = load_tokenizers(source), Step((SIDE, SIDE), width=4)
    found = activations_of(source, tokenizers, step)
    assert found is not None
    assert 0 < found.checkpointed < found.plain
    assert found.encoding > 0
    large = tuple(spec.name for spec in source.encoder_specs if spec.is_large)
    if {*large} != {*source.encoders}:
        without = activations_of(source, tokenizers, replace(step, without_rows=large))
        assert without is not None
        assert without.plain < found.plain
    for tokenizer in tokenizers.values():
        tokenizer.reads_emphasis = True
    weighted = activations_of(source, tokenizers, step)
    assert weighted is not None
    assert weighted.plain >= found.plain
