"""Verify that weights are quantized while they are loaded, one by one, and that swapped blocks stay off the device."""

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from torch import nn

from neonym.models.family import DenoiserSpec, EncoderSpec
from neonym.models.loading import assemble
from neonym.models.loading.folder import Weights
from neonym.models.loading.identify import identify
from neonym.models.loading.parts import load_parts
from neonym.models.quantization import QuantizedLinear, pack, quantize
from neonym.models.source import ModelSource
from neonym.models.storage import SCHEMES, SchemeRules, Storage

CPU = torch.device("cpu")
TRANSFORMER = {
    "in_channels": 4, "num_layers": 2, "num_single_layers": 3, "attention_head_dim": 8, "num_attention_heads": 2,
    "joint_attention_dim": 16, "pooled_projection_dim": 8, "axes_dims_rope": (2, 2, 4), "guidance_embeds": False,
}  # fmt: skip
T5 = {"vocab_size": 20, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
DENOISER = DenoiserSpec(
    "transformer", "FluxTransformer2DModel", ("x_embedder", "proj_out"), (".norm",),
    ("transformer_blocks", "single_transformer_blocks"),
)  # fmt: skip
ENCODERS = (EncoderSpec("text_encoder", "T5EncoderModel", "t5xxl", kind="t5"),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny")
    diffusers.FluxTransformer2DModel(**TRANSFORMER).save_pretrained(folder / "transformer")
    transformers.T5EncoderModel(transformers.T5Config(**T5)).save_pretrained(folder / "text_encoder")
    return folder


@pytest.fixture
def source(folder) -> ModelSource:
    builtin = identify("builtin:emoji")
    family = replace(builtin.family, denoiser=DENOISER, encoders=ENCODERS)
    configs = {**builtin.configs, "transformer": dict(TRANSFORMER), "text_encoder": dict(T5)}
    files = {
        "transformer": "diffusion_pytorch_model.safetensors", "text_encoder": "model.safetensors",
    }  # fmt: skip
    weights = {part: Weights((folder / part / name,)) for part, name in files.items()}
    return replace(builtin, family=family, configs=configs, weights={**builtin.weights, **weights})


def kept(module: nn.Module) -> dict[str, str]:
    """Return the scheme of each quantized layer by name."""
    return {name: layer.scheme for name, layer in module.named_modules() if isinstance(layer, QuantizedLinear)}


def tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_quantized_while_loading_are_those_quantized_afterwards(source, scheme):
    plain = load_parts(source, CPU, torch.float32)
    rules = SchemeRules(scheme, DENOISER.not_quantized, DENOISER.in_int8)
    quantize(plain["transformer"], rules)
    quantize(plain["text_encoder"], SchemeRules(scheme))
    found = load_parts(replace(source, storage=Storage(scheme, scheme)), CPU, torch.float32)
    for part in ("transformer", "text_encoder"):
        wanted, read = dict(tensors(plain[part])), dict(tensors(found[part]))
        assert wanted.keys() == read.keys()
        for name, tensor in wanted.items():
            assert torch.equal(tensor.contiguous().view(torch.uint8), read[name].contiguous().view(torch.uint8)), name


def test_families_and_parts_decide_what_is_quantized(source):
    parts = load_parts(replace(source, storage=Storage("nf4", "fp8")), CPU, torch.float32)
    schemes = kept(parts["transformer"])
    assert not {"x_embedder", "proj_out"} & schemes.keys()
    assert schemes["transformer_blocks.0.norm1.linear"] == "int8"
    assert schemes["single_transformer_blocks.2.proj_out"] == "nf4"
    assert set(kept(parts["text_encoder"]).values()) == {"fp8"}
    assert parts["text_encoder"].get_input_embeddings().weight.dtype == torch.float32
    assert not kept(parts["vae"])
    only = load_parts(replace(source, storage=Storage("fp8")), CPU, torch.float32)
    assert kept(only["transformer"])
    assert not kept(only["text_encoder"])


def test_encoders_of_clip_are_never_quantized():
    parts = load_parts(replace(identify("builtin:emoji"), storage=Storage("int8", "int8")), CPU, torch.float32)
    assert kept(parts["unet"])
    assert not kept(parts["text_encoder"])


def test_a_weight_is_gone_before_the_next_is_quantized(source, monkeypatch):
    """So a device never holds more than one weight in its full size."""
    seen = []

    def noted(weight, scheme):
        assert all(earlier() is None for earlier in seen)
        seen.append(weakref.ref(weight))
        return pack(weight, scheme)

    monkeypatch.setattr(assemble, "pack", noted)
    load_parts(replace(source, storage=Storage("fp8", "fp8")), CPU, torch.bfloat16)
    assert len(seen) > 20


@pytest.mark.parametrize("scheme", [None, *SCHEMES])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_model_with_swapped_blocks_is_the_same_bit_for_bit(source, scheme, count):
    torch.manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(2, 12, 4), "encoder_hidden_states": torch.randn(2, 6, 16),
        "pooled_projections": torch.randn(2, 8), "timestep": torch.tensor([0.2, 0.7]),
        "img_ids": torch.zeros(12, 3), "txt_ids": torch.zeros(6, 3),
    }  # fmt: skip
    results = []
    for blocks in (0, count):
        stored = replace(source, storage=Storage(scheme, None, blocks))
        transformer = load_parts(stored, CPU, torch.float32)["transformer"].requires_grad_(False).eval()
        transformer.enable_gradient_checkpointing()
        text, pooled = (inputs[n].clone().requires_grad_() for n in ("encoder_hidden_states", "pooled_projections"))
        for _ in range(2):
            out = transformer(**{**inputs, "encoder_hidden_states": text, "pooled_projections": pooled}).sample
            out.square().mean().backward()
        results.append((out.detach(), text.grad, pooled.grad))
    for wanted, found in zip(*results, strict=True):
        assert wanted.abs().max() > 0
        assert torch.equal(wanted, found)


def test_weights_of_swapped_blocks_are_not_loaded_onto_the_device(source):
    """On the meta device, which keeps nothing, only the weights of swapped blocks have numbers."""
    stored = replace(source, storage=Storage(blocks_to_swap=2))
    transformer = assemble.load_part(stored, "transformer", torch.float32, torch.device("meta"))
    for name, tensor in transformer.named_parameters():
        is_swapped = name.startswith(("transformer_blocks.0.", "single_transformer_blocks.0."))
        assert tensor.device.type == ("cpu" if is_swapped else "meta"), name
