"""Verify that text encoders without their unread blocks, and with recomputed activations, give the same states."""

import copy

import pytest
import torch
import transformers

from neonym.models.encoders.blocks import blocks_of, checkpoint_blocks, keep_blocks
from neonym.models.encoders.sequence import layer_states, t5_states
from neonym.models.quantization import quantize
from neonym.models.storage import SchemeRules

QWEN = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 5, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8,
}  # fmt: skip
IDS = torch.tensor([[5, 3, 9, 7, 0, 0], [1, 2, 3, 4, 5, 6]])
MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])


def qwen(kind: str = "Qwen3Model") -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    return getattr(transformers, kind)(transformers.Qwen3Config(**QWEN)).requires_grad_(False).eval()


def t5() -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=3, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return transformers.T5EncoderModel(config).requires_grad_(False).eval()


@pytest.mark.parametrize("kind", ["Qwen3Model", "Qwen3ForCausalLM"])
@pytest.mark.parametrize(("count", "layers"), [(-1, (4,)), (3, (3,)), (3, (1, 2, 3))])
def test_states_of_the_blocks_that_are_read_stay_the_same(kind, count, layers):
    """Also the last of them, which transformers would otherwise norm."""
    whole, cut = qwen(kind), qwen(kind)
    keep_blocks(cut, count)
    assert len(blocks_of(cut)) == max(layers)
    assert not any("norm.weight" in n or "lm_head" in n for n in cut.state_dict() if ".layers." not in f".{n}")
    wanted = layer_states(whole, IDS, MASK, layers)
    assert torch.equal(wanted, layer_states(cut, IDS, MASK, layers))


def test_a_cut_encoder_with_tied_weights_has_no_tied_weights_left():
    cut = qwen("Qwen3ForCausalLM")
    keep_blocks(cut, 2)
    cut.tie_weights()
    assert "lm_head.weight" not in cut.state_dict()


@pytest.mark.parametrize("scheme", [None, "fp8", "nf4"])
@pytest.mark.parametrize("name", ["qwen", "t5"])
def test_recomputed_activations_give_the_same_gradients(name, scheme):
    """In evaluation mode, without dropout, and through quantized weights."""
    plain = {"qwen": qwen, "t5": t5}[name]()
    quantize(plain, SchemeRules(scheme))
    recomputed = copy.deepcopy(plain)
    checkpoint_blocks(recomputed)
    results = []
    for encoder in (plain, recomputed):
        table = encoder.get_input_embeddings().weight.requires_grad_()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, to=kept: to.append(t.numel()) or t, lambda t: t):
            states = layer_states(encoder, IDS, MASK, (1, 3)) if name == "qwen" else t5_states(encoder, IDS)
        states.square().sum().backward()
        results.append((states.detach(), table.grad, sum(kept)))
    (states, grad, size), (others, other_grad, smaller) = results
    assert torch.equal(states, others)
    assert torch.equal(grad, other_grad)
    assert grad.abs().max() > 0
    assert smaller < size / 2
