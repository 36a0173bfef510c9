"""Check, without a GPU, that a step can be recorded as a CUDA graph: on torch's device `meta`.

Tensors there have a shape but no numbers: whatever reads one, for which the host would wait for a GPU, raises an error.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from neonym.models.graphs.values import mapped
from neonym.models.lexicon import Lexicon
from neonym.models.loading import parts
from neonym.models.loading.identify import identify
from neonym.models.model import Model, load_model
from neonym.models.storage import SCHEMES, Storage
from neonym.training.objective import Objective
from neonym.training.step import inputs_of, losses_of
from support import WORD
from support.batches import CAPTIONS, batch_of
from support.families import FAMILIES, tiny_model
from support.meta import Copies, PythonNumbers, on_meta


def copies_of_step(model: Model, captions: list[str]) -> list[str]:
    """Return the operators of a step that copy to the device. Raises what torch raises where the host would wait.

    A step before it may copy what stays there.
    """
    rows = {name: torch.zeros(2, table.frozen.embedding_dim) for name, table in model.text.tables.items()}
    model.text.add_word(WORD, rows)
    for tokenizer in model.text.tokenizers.values():
        tokenizer.reads_emphasis = captions is WEIGHTED
    inputs = mapped(inputs_of(model, batch_of(model, captions)), on_meta)
    for module in model.modules().values():
        module.to("meta")
    leaves = {name: on_meta(own.double()).requires_grad_() for name, own in rows.items()}
    objective = Objective(min_snr_gamma=5.0, loss_type="smooth_l1")
    with model.text.using(Lexicon(model.text.tokenizers, {name: [own] for name, own in leaves.items()})):
        losses_of(model, inputs, objective)
        with PythonNumbers() as numbers, Copies() as copies:
            losses = losses_of(model, inputs, objective)
            gradients = torch.autograd.grad(losses.sum(), [*leaves.values()])
    assert {own.device.type for own in [losses, *gradients]} == {"meta"}
    return numbers.found + copies.found


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Load models without the layers that only a CPU uses."""
    monkeypatch.setattr(parts, "make_batch_invariant", lambda network: None)


WEIGHTED = [f"a photo of (a {WORD}:1.3)", "a ((cat)) in the [rain]"]


@pytest.mark.parametrize("captions", [CAPTIONS[:1], CAPTIONS, WEIGHTED])
def test_a_step_of_stable_diffusion_can_be_recorded(as_on_a_gpu, captions):
    assert copies_of_step(load_model(), captions) == []


@pytest.mark.parametrize("captions", [CAPTIONS, WEIGHTED], ids=["plain", "weighted"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_a_flow_can_be_recorded(as_on_a_gpu, tmp_path, family, captions):
    """Captions are of unlike length."""
    model = load_model(str(tiny_model(family, tmp_path / "model")))
    assert copies_of_step(model, captions) == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("family", ["builtin", "flux1"])
def test_a_step_with_quantized_weights_and_checkpointing_can_be_recorded(as_on_a_gpu, tmp_path, family, scheme):
    name = "builtin:emoji" if family == "builtin" else str(tiny_model(family, tmp_path / "model"))
    model = load_model(replace(identify(name), storage=Storage(scheme, scheme)))
    model.enable_gradient_checkpointing()
    assert copies_of_step(model, CAPTIONS) == []


def test_copies_and_waits_are_noticed():
    """Each of them would otherwise go unnoticed."""
    there = torch.ones(3, device="meta")
    with PythonNumbers() as numbers, Copies() as copies:
        there[[0, 2]]
        torch.tensor([1.0, 2.0], device="meta")
        torch.ones(3).to("meta")
    assert [own.split()[0] for own in numbers.found] == ["__getitem__", "tensor"]
    assert copies.found == ["aten._to_copy.default"]
    for read in (Tensor.tolist, Tensor.item, Tensor.cpu, bool):
        with pytest.raises((RuntimeError, NotImplementedError)):
            read(there.sum())
