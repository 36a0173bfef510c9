"""Verify that weights in 8 bits compute what their dequantized form computes, forward and backward."""

import copy

import pytest
import torch
from torch import nn

from neonym import train
from neonym.formats import read_embedding
from neonym.models.loading.identify import identify
from neonym.models.quantization import Conv8, Linear8, dequantized, quantize_to_8_bits


def network() -> nn.Sequential:
    torch.manual_seed(1)
    layers = [
        nn.Conv2d(4, 8, 3, padding=1, stride=2),
        nn.SiLU(),
        nn.Conv2d(8, 8, 1, groups=2),
        nn.Flatten(2),
        nn.Linear(16, 5),
    ]
    return nn.Sequential(*layers).requires_grad_(False)


def test_results_and_gradients_are_those_of_dequantized_weights():
    """The reference is the same network with its 8-bit weights converted to float32."""
    small = network()
    quantize_to_8_bits(small)
    assert [type(layer) for layer in small if hasattr(layer, "weight")] == [Conv8, Conv8, Linear8]
    plain = network()
    for mine, theirs in zip(small, plain, strict=True):
        if hasattr(mine, "weight"):
            assert mine.weight.element_size() == 1
            assert torch.allclose(
                dequantized(mine.weight, mine.scale, torch.float32), theirs.weight, rtol=0.07, atol=1e-3
            )
            theirs.weight.copy_(dequantized(mine.weight, mine.scale, torch.float32))
    inputs = [torch.randn(3, 4, 8, 8, requires_grad=True)]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    for model, x in zip((small, plain), inputs, strict=True):
        (model(x) ** 2).sum().backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad, rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        y = small(inputs[0])
    y.float().sum().backward()
    assert inputs[0].grad.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # by torch itself
def test_quantized_layers_can_be_compiled():
    """`--fp8_base` and `--torch_compile` together give one graph, forward and backward."""
    small = network()
    quantize_to_8_bits(small)
    compiled = torch.compile(small, backend="aot_eager", fullgraph=True)
    inputs = [torch.randn(3, 4, 8, 8, requires_grad=True)]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    outputs = [model(x) for model, x in zip((small, compiled), inputs, strict=True)]
    assert torch.allclose(*outputs, atol=1e-6)
    for y in outputs:
        y.square().sum().backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad, rtol=1e-5, atol=1e-6)


def test_a_family_says_which_layers_are_not_quantized():
    parts = nn.ModuleDict({"conv_in": nn.Conv2d(1, 1, 1), "middle": nn.Linear(2, 2), "conv_out": nn.Conv2d(1, 1, 1)})
    before = copy.deepcopy(parts)
    quantize_to_8_bits(parts, identify("builtin:emoji").family.denoiser.not_quantized)
    for name in ("conv_in", "conv_out"):
        assert torch.equal(parts[name].weight, before[name].weight)
    assert parts["middle"].weight.dtype == torch.float8_e4m3fn


def test_a_word_is_learned_with_a_quantized_model(run_for, tmp_path):
    """It is nearly the same word, and its sample images come from the quantized model."""
    prompts = tmp_path / "p.txt"
    prompts.write_text("a mychar4 --s 2")
    options = {"max_train_steps": 4, "learning_rate": 0.02}
    exact = train(run_for("exact", **options))
    small = train(run_for("small", fp8_base=True, sample_prompts=str(prompts), sample_every_n_steps=4, **options))
    a, b = (read_embedding(r.files[0]).vectors["text_encoder"] for r in (exact, small))
    assert not torch.equal(a, b)
    assert torch.allclose(a, b, atol=0.03)
    assert float(torch.cosine_similarity(a, b).min()) > 0.99
    assert len(list((tmp_path / "small" / "sample").glob("*.png"))) == 2
    again = train(run_for("again", fp8_base=True, **options))
    assert torch.equal(read_embedding(again.files[0]).vectors["text_encoder"], b)
