"""Verify, for every family with blocks, that settings that save memory change nothing or little of what is learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from neonym.models.loading.identify import identify
from neonym.models.model import load_model
from neonym.models.storage import Storage
from neonym.training.objective import Objective
from neonym.training.step import sample_losses
from neonym.types import Batch
from support.families import FAMILIES, SIDE, tiny_model

WORD = "mychar4"


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory) -> Path:
    return tiny_model(request.param, tmp_path_factory.mktemp(request.param) / "model")


def losses_and_gradients(folder: Path, storage: Storage, checkpointing: bool) -> list[torch.Tensor]:
    """Return the losses of two samples, and the gradients of a word's rows after two backward passes."""
    model = load_model(replace(identify(str(folder)), storage=storage))
    if checkpointing:
        model.enable_gradient_checkpointing()
    generator = torch.Generator().manual_seed(1)
    rows = {
        name: (0.1 * torch.randn(2, table.frozen.embedding_dim, generator=generator)).requires_grad_()
        for name, table in model.text.tables.items()
    }
    model.text.add_word(WORD, rows)
    spec, captions = model.source.latents, [f"a photo of {WORD}", f"{WORD} in the rain"]
    side = SIDE // spec.pixels
    batch = Batch(
        moments=torch.randn(2, 2 * spec.channels, side, side, generator=torch.Generator().manual_seed(2)),
        text=model.text.batch(captions), keys=[(0, 0, 0), (0, 0, 1)], levels=[0.3, 0.8],
        concept=torch.zeros(2, dtype=torch.int64), weight=torch.ones(2),
    )  # fmt: skip
    for _ in range(2):
        losses = sample_losses(model, batch, Objective())
        losses.sum().backward()
    return [losses.detach(), *(own.grad for own in rows.values())]


@pytest.fixture(scope="module")
def plain(folder) -> list[torch.Tensor]:
    return losses_and_gradients(folder, Storage(), False)


@pytest.mark.parametrize("blocks_to_swap", [0, 3])
def test_checkpointing_and_swapping_change_no_bit(folder, plain, blocks_to_swap):
    found = losses_and_gradients(folder, Storage(blocks_to_swap=blocks_to_swap), True)
    for one, other in zip(plain, found, strict=True):
        assert one.abs().max() > 0
        assert torch.equal(one, other)


@pytest.mark.parametrize(("scheme", "share"), [("fp8", 0.9), ("int8", 0.99), ("nf4", 0.6)])
def test_quantized_weights_give_nearly_the_same_gradients(folder, plain, scheme, share):
    """Gradients point in nearly the same direction, with and without swapped blocks."""
    found = losses_and_gradients(folder, Storage(scheme, scheme), False)
    for one, other in zip(plain[1:], found[1:], strict=True):
        assert torch.cosine_similarity(one.flatten(), other.flatten(), dim=0) > share
    if scheme != "nf4":
        return
    swapped = losses_and_gradients(folder, Storage(scheme, scheme, 3), True)
    for one, other in zip(found, swapped, strict=True):
        assert torch.equal(one, other)
