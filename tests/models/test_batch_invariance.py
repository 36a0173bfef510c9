"""Verify that the output for a sample is bit-identical whatever its batch and the number of threads."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from neonym.models import packed_convolution
from neonym.models.batch_invariance import BATCH_INVARIANT_LAYERS, make_batch_invariant
from neonym.models.model import load_model
from support import BATCH_INVARIANT
from support.runs import threads


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bf16"])
def model(request):
    return load_model("builtin:emoji", "cpu", request.param)


def predicted(model, count: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the prediction for the first of some samples, and its gradient with respect to the text."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, 4, side, side, generator=generator)[:count]
    t = torch.tensor([3, 999, 500, 500, 70])[:count]
    text = torch.randn(5, 77, 128, generator=generator)[:count].to(model.dtype).requires_grad_()
    prediction = model.denoiser(x.to(model.dtype), t, text).sample
    prediction.square().flatten(1).mean(1).sum().backward()
    assert text.grad is not None
    return prediction.detach()[0], text.grad[0]


@pytest.mark.skipif(not BATCH_INVARIANT, reason="this CPU rounds otherwise")
@pytest.mark.parametrize("side", [8, 16])
def test_a_sample_is_the_same_in_any_batch_and_on_any_threads(model, side):
    with threads(1):
        prediction, gradient = predicted(model, 1, side)
    for count, on in ((1, 2), (2, 1), (3, 2), (5, 4)):
        with threads(on):
            again = predicted(model, count, side)
        assert torch.equal(prediction, again[0]), (count, on)
        assert torch.equal(gradient, again[1]), (count, on)


@pytest.mark.skipif(not BATCH_INVARIANT, reason="this CPU rounds otherwise")
def test_images_are_encoded_identically_on_any_threads(model):
    pixels = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(2)) * 2 - 1
    found = []
    for on in (1, 2, 4):
        with threads(on):
            found.append(model.vae.encode(pixels))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


LAYERS = [
    (nn.Conv2d(6, 10, 3, padding=1), (6, 9, 7)),
    (nn.Conv2d(6, 10, 3, padding=1, stride=2), (6, 8, 8)),
    (nn.Conv2d(6, 12, 3, padding=2, dilation=2, groups=3), (6, 8, 8)),
    (nn.Conv2d(6, 10, 3, padding=1, stride=2), (6, 9, 7)),
    (nn.Conv2d(6, 10, 4, stride=3), (6, 9, 12)),  # whose last pixels the kernel does not reach
    (nn.Conv2d(6, 10, (3, 1), padding=(1, 0)), (6, 8, 5)),
    (nn.Conv2d(6, 10, 3, padding=1, padding_mode="reflect"), (6, 8, 8)),  # not packed
    (nn.Conv2d(6, 10, 3, padding="same"), (6, 8, 8)),  # not packed
    (nn.Conv2d(6, 10, 1), (6, 8, 8)),
    (nn.Conv2d(6, 10, 1, stride=2), (6, 8, 8)),
    (nn.Conv2d(6, 10, 1, bias=False), (6, 8, 8)),
    (nn.Linear(6, 10), (6,)),
    (nn.Linear(6, 10), (7, 6)),
    (nn.GroupNorm(2, 6), (6, 33, 32)),
    (nn.GroupNorm(2, 6), (6, 8, 8)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: str(value).replace(" ", ""))
@pytest.mark.parametrize("count", [1, 3])
def test_a_layer_computes_what_torch_computes_in_float64(layer, shape, count):
    """The results and the gradients agree."""
    ours = copy.deepcopy(layer).requires_grad_(False)
    theirs = copy.deepcopy(ours).double()
    make_batch_invariant(ours)
    assert type(ours) is BATCH_INVARIANT_LAYERS[type(theirs)]
    x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(3))
    inputs = [x.clone().requires_grad_(), x.double().requires_grad_()]
    outputs = [one(value) for one, value in zip((ours, theirs), inputs, strict=True)]
    for out in outputs:
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    assert torch.allclose(outputs[0].double(), outputs[1], rtol=1e-5, atol=1e-5)
    assert torch.allclose(inputs[0].grad.double(), inputs[1].grad, rtol=1e-5, atol=1e-5)


def test_packed_weights_follow_changed_weights():
    layer = nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    make_batch_invariant(layer)
    for _ in range(2):
        x = torch.randn(1, 4, 8, 8).requires_grad_()
        layer(x).sum().backward()
        y = x.detach().clone().requires_grad_()
        F.conv2d(y, layer.weight, layer.bias, padding=1).sum().backward()
        assert torch.allclose(x.grad, y.grad, atol=1e-5)  # pyright: ignore
        layer.weight.mul_(-2)


def test_weights_are_packed_once_for_each_pass(monkeypatch):
    """The forward pass packs them, and the backward pass once more; images of other sizes use the same."""
    calls, pack = [], packed_convolution.packed_once
    monkeypatch.setattr(
        packed_convolution, "packed_once",
        lambda layer, kind, make: pack(layer, kind, lambda weight: calls.append(kind) or make(weight)),
    )  # fmt: skip
    layer = nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    make_batch_invariant(layer)
    for side in (8, 8, 6):
        layer(torch.randn(2, 4, side, side).requires_grad_()).sum().backward()
        with torch.no_grad():
            layer(torch.randn(1, 4, side, side))
    assert calls == ["forward", "backward"]
    assert copy.deepcopy(layer)(torch.ones(1, 4, 8, 8)).equal(layer(torch.ones(1, 4, 8, 8)))
