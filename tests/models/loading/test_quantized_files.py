"""Verify that weights stored in fewer bits are read as the numbers that they stand for."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neonym import extras
from neonym.errors import ModelError
from neonym.models.loading.assemble import token_table
from neonym.models.loading.file_roles import facts_of
from neonym.models.loading.folder import Weights
from neonym.models.loading.quantized_files import plan_of
from neonym.models.loading.reading import read_weights
from neonym.models.loading.vocabulary_spread import EIGHT_BITS, spread_of
from neonym.models.loading.weight_files import hash_of_tensors, read_header
from support.quantized import (
    E5M2,
    comfy_quant,
    nf4,
    old_scaled,
    per_block,
    per_row,
    save_gguf,
    save_with_metadata_formats,
)

FORMS = {  # name -> (how it is stored, relative error of a number, error relative to the largest of its layer)
    "fp8": (lambda own: {n: t.to(torch.float8_e4m3fn) for n, t in own.items()}, 2**-4, 2**-7),
    "scaled": (old_scaled, 2**-4, 2**-10),
    "sd-scripts, one scale": (lambda own: old_scaled(own, marker=False), 2**-4, 2**-10),
    "rows": (per_row, 2**-4, 2**-10),
    "blocks": (per_block, 2**-4, 2**-10),
    "comfy_quant": (comfy_quant, 2**-4, 2**-10),
    "comfy_quant e5m2": (lambda own: comfy_quant(own, E5M2), 2**-3, 2**-10),
    "nf4": (nf4, 0, 0.16),
    "nf4 nested": (lambda own: nf4(own, nested=True), 0, 0.17),
}  # fmt: skip
KINDS = {"Q8_0": 2**-7, "Q4_0": 2**-3, "Q5_1": 2**-4, "BF16": 2**-8, "F16": 2**-10, "F32": 0.0}


@pytest.fixture
def tensors():
    """Return weights like those of a transformer: matrices of different sizes, a bias, a norm."""
    generator = torch.Generator().manual_seed(1)
    made = {
        "double_blocks.0.img_attn.qkv.weight": torch.randn(96, 128, generator=generator) * 0.05,
        "double_blocks.0.img_attn.proj.weight": torch.randn(32, 64, generator=generator) * 3,
        "double_blocks.0.img_attn.proj.bias": torch.randn(32, generator=generator),
        "double_blocks.0.img_attn.norm.key_norm.scale": torch.ones(16),
    }
    assert all(t.abs().max() < 448 for t in made.values())
    return made


def assert_near(found, expected, relative, absolute):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        bound = tensor.abs() * relative + tensor.abs().max() * absolute
        assert (found[name].float() - tensor).abs().le(bound + 1e-7).all(), name
        assert relative + absolute == 0 or tensor.ndim < 2 or not torch.equal(found[name].float(), tensor)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_within_its_error(form, tensors, tmp_path):
    stored, relative, absolute = FORMS[form]
    path = tmp_path / "x.safetensors"
    save_file(stored(tensors), path)
    found = read_weights(path, ("",))
    assert_near(found, tensors, relative, absolute)
    assert plan_of(path, read_header(path)).plain == {n: tuple(t.shape) for n, t in tensors.items()}
    half = read_weights(path, ("double_blocks.0.img_attn.qkv",), torch.bfloat16)
    assert [t.dtype for t in half.values()] == [torch.bfloat16]
    assert facts_of(read_header(path)).quant is not None


def test_formats_in_the_metadata_are_read(tensors, tmp_path):
    path = tmp_path / "x.safetensors"
    save_with_metadata_formats(tensors, path)
    assert_near(read_weights(path, ("",)), tensors, 2**-4, 2**-10)


def test_plain_weights_stay_what_they_are(tensors, tmp_path):
    path = tmp_path / "x.safetensors"
    half = {n: t.half() for n, t in tensors.items()}
    save_file(half, path)
    found = read_weights(path, ("",), torch.bfloat16)
    assert all(torch.equal(found[n], t) and found[n].dtype == torch.float16 for n, t in half.items())
    torch.save(tensors, tmp_path / "x.ckpt")
    assert all(torch.equal(t, tensors[n]) for n, t in read_weights(tmp_path / "x.ckpt", ("",)).items())


def without(tensors, end):
    first = next(name for name in sorted(tensors) if name.endswith(end))
    return {n: t for n, t in tensors.items() if n != first}


UNREADABLE = {
    "scaled fp8 without scales: those of 1 weights are missing": lambda own: without(old_scaled(own), ".scale_weight"),
    "scaled fp8 without scales: those of 2 weights": lambda own: {
        n: t for n, t in old_scaled(own).items() if "scale_weight" not in n
    },
    "in the format nvfp4, which cannot be read": lambda own: renamed_format(comfy_quant(own), "nvfp4"),
    "in the format mxfp8, which cannot be read": lambda own: renamed_format(comfy_quant(own), "mxfp8"),
    "does not say how its weights are quantised": lambda own: renamed_format(comfy_quant(own), "", b"not JSON"),
    r"has scales of the shape \[3\]": lambda own: {
        n: torch.ones(3) if n.endswith("proj.scale_weight") else t for n, t in old_scaled(own).items()
    },
    "does not say how its weights are packed": lambda own: {
        n: t[:5] if "quant_state" in n else t for n, t in nf4(own).items()
    },
}


def renamed_format(tensors, kind, raw=None):
    text = torch.tensor(list(raw or json.dumps({"format": kind}).encode()), dtype=torch.uint8)
    return {n: text.clone() if n.endswith(".comfy_quant") else t for n, t in tensors.items()}


@pytest.mark.parametrize("words", UNREADABLE)
def test_what_cannot_be_read_is_refused(words, tensors, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(UNREADABLE[words](tensors), path)
    with pytest.raises(ModelError, match=words) as error:
        read_weights(path, ("",))
    assert "\n" not in str(error.value)


def test_formats_that_only_the_names_show_are_refused(tensors, tmp_path):
    path = tmp_path / "x.safetensors"
    found = {n: t for n, t in comfy_quant(tensors).items() if not n.endswith(".comfy_quant")}
    save_file({**found, "double_blocks.0.img_attn.proj.weight_scale_2": torch.ones(())}, path)
    with pytest.raises(ModelError, match="nvfp4"):
        read_weights(path, ("",))


@pytest.mark.parametrize("kind", KINDS)
def test_gguf_files_are_read_within_their_error(kind, tensors, tmp_path):
    path = tmp_path / "x.gguf"
    save_gguf(tensors, path, kind)
    header = read_header(path)
    assert header.container == "gguf"
    assert header.shapes == {n: tuple(t.shape) for n, t in tensors.items()}
    assert header.dtypes["double_blocks.0.img_attn.qkv.weight"] == kind
    assert header.metadata["general.architecture"] == "flux"
    assert_near(read_weights(path, ("",)), tensors, 0, KINDS[kind])
    assert {t.dtype for t in read_weights(path, ("",), torch.bfloat16).values()} == {torch.bfloat16}


def test_a_gguf_file_has_the_shape_that_its_metadata_gives(tmp_path):
    """A convolution is stored as a matrix, because quantised blocks run along the last axis."""
    from gguf import GGUFWriter

    path, kernel = tmp_path / "x.gguf", torch.randn(8, 4, 2, 2)
    writer = GGUFWriter(path, "sd3")
    writer.add_array("comfy.gguf.orig_shape.x_embedder.proj.weight", [8, 4, 2, 2])
    writer.add_tensor("x_embedder.proj.weight", kernel.reshape(4, 32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_header(path).shapes == {"x_embedder.proj.weight": (8, 4, 2, 2)}
    assert torch.equal(read_weights(path, ("",))["x_embedder.proj.weight"], kernel)


@pytest.mark.parametrize("kind", ["qwen3", "t5"])
def test_text_encoders_in_gguf_files_get_the_names_of_transformers(kind, tmp_path):
    from transformers import Qwen3Config, Qwen3Model, T5Config, T5EncoderModel

    if kind == "qwen3":
        config = Qwen3Config(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                             num_key_value_heads=1, head_dim=16)  # fmt: skip
        model = Qwen3Model(config)
        names = {"embed_tokens": "token_embd", "norm": "output_norm"}
        inner = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
                 "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
                 "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}  # fmt: skip
        block, body, table = "layers", "model.", "model.embed_tokens.weight"
    else:
        config = T5Config(
            vocab_size=64, d_model=32, d_ff=64, d_kv=16, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
        )
        model = T5EncoderModel(config)
        names = {"shared": "token_embd", "encoder.final_layer_norm": "enc.output_norm"}
        inner = {"layer.0.layer_norm": "attn_norm", "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b", "layer.1.layer_norm": "ffn_norm",
                 **{f"layer.0.SelfAttention.{i}": f"attn_{i}" for i in "qkvo"}, "layer.1.DenseReluDense.wi_0": "ffn_gate",
                 "layer.1.DenseReluDense.wi_1": "ffn_up", "layer.1.DenseReluDense.wo": "ffn_down"}  # fmt: skip
        block, body, table = "encoder.block", "", "shared.weight"
    weights = {n: t for n, t in model.state_dict().items() if n != "encoder.embed_tokens.weight"}

    def llama_cpp(name: str) -> str:
        layer = name.removesuffix(".weight")
        if name.startswith(f"{block}."):
            index, _, rest = layer.removeprefix(f"{block}.").partition(".")
            return f"{'enc.' if kind == 't5' else ''}blk.{index}.{inner[rest]}.weight"
        return f"{names[layer]}.weight"

    path = tmp_path / "x.gguf"
    save_gguf({llama_cpp(n): t for n, t in weights.items()}, path, "F32", kind)
    found = read_weights(path, ("",))
    assert all(torch.equal(found[f"{body}{n}"], t) for n, t in weights.items())
    assert len(found) == len(weights)
    facts = facts_of(read_header(path))
    assert (facts.role, facts.variant, facts.quant) == ("text_encoder", kind, "gguf")
    assert torch.equal(token_table(Weights((path,))), weights[table.removeprefix(body)])


@pytest.mark.parametrize("kind", ["F8_E4M3", "scaled", "rows", "Q8_0", "F16"])
def test_the_spread_of_a_vocabulary_is_measured_in_fewer_bits(kind, tmp_path):
    table = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0)) * 0.03
    own = {"model.embed_tokens.weight": table}
    path = tmp_path / ("x.gguf" if kind in KINDS else "x.safetensors")
    if kind == "F8_E4M3":
        save_file({n: t.to(torch.float8_e4m3fn) for n, t in own.items()}, path)
    elif kind in ("scaled", "rows"):
        save_file((old_scaled if kind == "scaled" else per_row)(own), path)
    else:
        save_gguf({"token_embd.weight": table}, path, kind, "qwen3")
    assert spread_of(Weights((path,))) == pytest.approx(0.03, rel=0.02)


def test_bytes_of_fp8_are_the_numbers_of_torch():
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().nan_to_num(0)
    assert torch.equal(torch.from_numpy(EIGHT_BITS).float(), every)


def damage(path: Path) -> dict[str, bytes]:
    whole = path.read_bytes()
    return {
        "it ends within its header": whole[:40],
        "claims more numbers than the file has": whole[:-100],
        "its version is 1": whole[:4] + struct.pack("<I", 1) + whole[8:],
        "is damaged": whole[:8] + struct.pack("<Q", 2**60) + whole[16:],
        "GGUF": b"GG",
    }


def test_damaged_gguf_files_are_refused(tensors, tmp_path):
    path = tmp_path / "x.gguf"
    save_gguf(tensors, path, "Q8_0")
    for words, content in damage(path).items():
        path.write_bytes(content)
        with pytest.raises(ModelError, match=words):
            read_header(path)
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="damaged"):
        read_header(path)


def test_a_header_cut_anywhere_is_refused_and_reads_nothing_else(tensors, tmp_path):
    path = tmp_path / "x.gguf"
    save_gguf(tensors, path, "Q8_0")
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, 37):
        path.write_bytes(whole[:end])
        with pytest.raises(ModelError):
            read_header(path)


def test_without_the_package_a_gguf_file_is_recognised_but_not_read(tensors, tmp_path, monkeypatch):
    path = tmp_path / "x.gguf"
    save_gguf(tensors, path, "Q8_0")
    monkeypatch.setattr("neonym.models.loading.gguf_files.is_installed", lambda module: False)
    assert read_header(path).dtypes["double_blocks.0.img_attn.qkv.weight"] == "Q8_0"
    with pytest.raises(ModelError, match=r"needs the package gguf.*neonym\[gguf\]"):
        read_weights(path, ("",))
    assert extras.MODULES["gguf"].extra == "gguf"
    save_gguf(tensors, path, "F16")
    assert read_weights(path, ("",)).keys() == tensors.keys()  # plain numbers need no package


def test_our_own_reader_agrees_with_the_package(tensors, tmp_path):
    from gguf import GGUFReader

    path = tmp_path / "x.gguf"
    save_gguf(tensors, path, "Q5_1")
    theirs = {own.name: tuple(int(side) for side in own.shape[::-1]) for own in GGUFReader(path).tensors}
    assert read_header(path).shapes == theirs


def test_the_hash_of_a_gguf_file_follows_its_numbers(tensors, tmp_path):
    one, other = tmp_path / "1.gguf", tmp_path / "2.gguf"
    save_gguf(tensors, one, "Q8_0")
    save_gguf({n: t + 1 for n, t in tensors.items()}, other, "Q8_0")
    assert hash_of_tensors(one, ("",)) != hash_of_tensors(other, ("",))
