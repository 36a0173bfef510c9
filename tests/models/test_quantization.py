"""Verify that quantized weights compute what their dequantized form computes, forward and backward."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from neonym import train
from neonym.formats import read_embedding
from neonym.models.loading.identify import identify
from neonym.models.quantization import (
    QuantizedConv2d,
    QuantizedLinear,
    pack,
    quantize,
    scaled_fp8,
    set_quantized,
    unpack,
)
from neonym.models.quantization import schemes as schemes_module
from neonym.models.quantization.schemes import AT_ONCE, BLOCK, NF4
from neonym.models.storage import BYTES, SCHEMES, SchemeRules

FP8 = torch.float8_e4m3fn
# the largest relative error of normally distributed weights, as a whole
ERRORS = {"fp8": 0.03, "int8": 0.01, "nf4": 0.1}


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


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_results_and_gradients_are_those_of_dequantized_weights(scheme):
    """The reference is the same network with its quantized weights converted to float32."""
    small, plain = network(), network()
    quantize(small, SchemeRules(scheme))
    kinds = [type(layer) for layer in small if hasattr(layer, "weight")]
    assert kinds == [QuantizedConv2d, QuantizedConv2d, QuantizedLinear]
    for mine, theirs in zip(small, plain, strict=True):
        if hasattr(mine, "weight"):
            assert mine.numbers.element_size() == 1
            assert relative(unpack(mine.packed, torch.float32), theirs.weight) < 1.5 * ERRORS[scheme]
            theirs.weight.copy_(unpack(mine.packed, torch.float32))
    inputs = [torch.randn(3, 4, 8, 8, requires_grad=True)]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    for model, x in zip((small, plain), inputs, strict=True):
        (model(x) ** 2).sum().backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_nearly_the_original_ones(scheme, dtype):
    torch.manual_seed(0)
    weight = 0.02 * torch.randn(96, 256)
    packed = pack(weight, scheme)
    assert relative(unpack(packed, dtype).float(), weight) < ERRORS[scheme]
    assert unpack(packed, dtype).dtype == dtype
    size = packed.numbers.nbytes + packed.scale.nbytes
    assert size <= weight.numel() * BYTES[scheme] + 4 * len(weight)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_gradients_of_inputs_are_nearly_those_of_the_original_weights(scheme):
    torch.manual_seed(0)
    layer = nn.Linear(512, 256).requires_grad_(False)
    x, grad = torch.randn(8, 512, requires_grad=True), torch.randn(8, 256)
    (wanted,) = torch.autograd.grad(layer(x), x, grad)
    quantize(nn.Sequential(layer), SchemeRules(scheme))
    (found,) = torch.autograd.grad(layer(x), x, grad)
    assert relative(found, wanted) < ERRORS[scheme]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_but_the_small_weights_is_kept_for_the_backward_pass(scheme):
    layer = nn.Linear(256, 128).requires_grad_(False)
    quantize(nn.Sequential(layer), SchemeRules(scheme))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(torch.randn(4, 256, requires_grad=True))
    assert {t.data_ptr() for t in saved} == {layer.numbers.data_ptr(), layer.scale.data_ptr()}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_zeros_stay_zeros_and_the_largest_number_stays_nearly_itself(scheme):
    weight = torch.zeros(2, BLOCK)
    weight[1, 3] = -5.0
    found = unpack(pack(weight, scheme), torch.float32)
    assert torch.count_nonzero(found) == 1
    assert math.isclose(float(found[1, 3]), -5.0, rel_tol=2**-8)


def test_each_number_in_4_bits_is_the_nearest_of_its_16_values():
    torch.manual_seed(0)
    weight = torch.randn(3, 50)  # 150 numbers: the last block is not full
    packed = pack(weight, "nf4")
    values = torch.tensor(NF4)[None] * packed.scale.float().repeat_interleave(BLOCK)[: weight.numel(), None]
    distances = (values - weight.flatten()[:, None]).abs()
    found = unpack(packed, torch.float32)
    assert found.shape == weight.shape
    assert torch.allclose((found.flatten() - weight.flatten()).abs(), distances.min(dim=1).values, atol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_are_packed_in_pieces(scheme, monkeypatch):
    torch.manual_seed(0)
    weight = torch.randn(10, 96)
    whole = pack(weight, scheme)
    monkeypatch.setattr(schemes_module, "AT_ONCE", 2 * BLOCK)
    pieces = pack(weight, scheme)
    assert weight.numel() < AT_ONCE
    assert torch.equal(whole.numbers.view(torch.uint8), pieces.numbers.view(torch.uint8))
    assert torch.equal(whole.scale, pieces.scale)


@pytest.mark.parametrize("shape", [(), (1,), (6, 1), (6, 2, 1)])
def test_the_scales_of_a_file_are_used_unchanged(shape):
    """One scale for all, for each row, and for each block of 64 inputs, as in files of ComfyUI and sd-scripts."""
    torch.manual_seed(0)
    numbers, scale = torch.randn(6, 128).to(FP8), torch.rand(shape) + 0.5
    packed = scaled_fp8(numbers, scale)
    assert packed.numbers is numbers
    each = scale.repeat_interleave(64, dim=1)[..., 0] if len(shape) == 3 else scale
    wanted = numbers.float() * each
    assert torch.equal(unpack(packed, torch.float32), wanted)
    layer = nn.Linear(128, 6).requires_grad_(False)
    set_quantized(layer, packed)
    x = torch.randn(3, 128)
    assert torch.allclose(layer(x), x @ wanted.T + layer.bias, atol=1e-5)


@pytest.mark.parametrize("shape", [(2,), (5, 1), (6, 3, 1), (1, 6), (6, 128)])
def test_scales_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="do not fit"):
        scaled_fp8(torch.zeros(6, 128).to(FP8), torch.ones(shape))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # by torch itself
def test_quantized_layers_can_be_compiled(scheme):
    """`--base_precision` and `--torch_compile` together give one graph, forward and backward."""
    small = network()
    quantize(small, SchemeRules(scheme))
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
    quantize(parts, SchemeRules("fp8", identify("builtin:emoji").family.denoiser.not_quantized))
    for name in ("conv_in", "conv_out"):
        assert torch.equal(parts[name].weight, before[name].weight)
    assert parts["middle"].numbers.dtype == FP8


def test_rules_match_the_beginnings_of_names_and_of_their_parts():
    rules = SchemeRules("nf4", not_quantized=("proj_out", ".embed"), in_int8=(".norm",))
    names = ("proj_out", "blocks.0.proj_out", "blocks.0.embedder", "blocks.0.norm1.linear", "norm_out.linear")
    assert [rules.scheme_of(name) for name in names] == [None, "nf4", None, "int8", "nf4"]
    assert SchemeRules(None).scheme_of("blocks.0.proj_out") is None


def test_an_output_layer_that_is_the_token_table_is_not_quantized():
    parts = nn.ModuleDict({"lm_head": nn.Linear(2, 2), "middle": nn.Linear(2, 2)})
    quantize(parts, SchemeRules("int8"))
    assert isinstance(parts["middle"], QuantizedLinear)
    assert not isinstance(parts["lm_head"], QuantizedLinear)


def test_bitsandbytes_reads_the_same_4_bits():
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    packed = pack(0.02 * torch.randn(64, 50), "nf4")
    found = schemes_module.unpacked_by_bitsandbytes(packed, torch.float32)[: 64 * 50].view(64, 50)
    assert torch.allclose(found, unpack(packed, torch.float32))


@pytest.mark.parametrize("flags", [{"base_precision": "fp8"}, {"base_precision": "int8"}, {"base_precision": "nf4"}])
def test_a_word_is_learned_with_a_quantized_model(run_for, tmp_path, flags):
    """It is nearly the same word, and its sample images come from the quantized model."""
    prompts = tmp_path / "p.txt"
    prompts.write_text("a mychar4 --s 2")
    options = {"max_train_steps": 4, "learning_rate": 0.02, "resolution": "128"}
    exact = train(run_for("exact", **options))
    small = train(run_for("small", sample_prompts=str(prompts), sample_every_n_steps=4, **flags, **options))
    a, b = (read_embedding(r.files[0]).vectors["text_encoder"] for r in (exact, small))
    assert not torch.equal(a, b)
    assert float(torch.cosine_similarity(a, b).min()) > (0.9 if flags["base_precision"] == "nf4" else 0.99)
    assert len(list((tmp_path / "small" / "sample").glob("*.png"))) == 2
    again = train(run_for("again", **flags, **options))
    assert torch.equal(read_embedding(again.files[0]).vectors["text_encoder"], b)
