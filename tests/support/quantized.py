"""Store weights in the forms that other programs write: scaled fp8, nf4, GGUF."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
LARGEST = torch.finfo(E4M3).max
# Levels of nf4: quantiles of a normal distribution
NF4 = torch.tensor(
    [-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0, 0.0795803, 0.1609302,
     0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0]
)  # fmt: skip
BLOCK = 64


def layers_of(tensors: Mapping[str, Tensor]) -> set[str]:
    """Return the names of the layers with a matrix, which are what programs quantise."""
    return {n.removesuffix(".weight") for n, t in tensors.items() if n.endswith(".weight") and t.ndim == 2}


def old_scaled(tensors: Mapping[str, Tensor], marker: bool = True) -> dict[str, Tensor]:
    """Return the tensors in ComfyUI's old form: one scale for each layer, and a marker."""
    found = {"scaled_fp8": torch.zeros(0, dtype=E4M3)} if marker else {}
    return found | per_layer(tensors, lambda w: w.abs().max() / LARGEST, "scale_weight", E4M3) | {
        f"{layer}.scale_input": torch.ones(()) for layer in layers_of(tensors)
    }  # fmt: skip


def comfy_quant(tensors: Mapping[str, Tensor], kind: torch.dtype = E4M3) -> dict[str, Tensor]:
    """Return the tensors in ComfyUI's new form, with the format in a tensor beside each layer."""
    name = str(kind).removeprefix("torch.")
    text = torch.tensor(list(json.dumps({"format": name}).encode()), dtype=torch.uint8)
    found = per_layer(tensors, lambda w: w.abs().max() / torch.finfo(kind).max, "weight_scale", kind)
    return found | {f"{layer}.comfy_quant": text.clone() for layer in layers_of(tensors)}


def per_row(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with one scale for each row, [O,1]."""
    return per_layer(tensors, lambda w: w.abs().amax(1, keepdim=True) / LARGEST, "scale_weight", E4M3)


def per_block(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with one scale for each 64 numbers of a row, [O,blocks,1]."""
    found = {n: t for n, t in tensors.items() if n.removesuffix(".weight") not in layers_of(tensors)}
    for layer in layers_of(tensors):
        blocks = tensors[f"{layer}.weight"].float().reshape(tensors[f"{layer}.weight"].shape[0], -1, BLOCK)
        scale = blocks.abs().amax(2, keepdim=True) / LARGEST
        found[f"{layer}.weight"] = (blocks / scale).to(E4M3).reshape(tensors[f"{layer}.weight"].shape)
        found[f"{layer}.scale_weight"] = scale
    return found


def per_layer(tensors: Mapping[str, Tensor], scale_of, leaf: str, kind: torch.dtype) -> dict[str, Tensor]:
    """Return the tensors with scaled matrices; `scale_of` takes a matrix, `leaf` names its scale."""
    found = dict(tensors)
    for layer in layers_of(tensors):
        weight = tensors[f"{layer}.weight"].float()
        scale = scale_of(weight)
        found[f"{layer}.weight"], found[f"{layer}.{leaf}"] = (weight / scale).to(kind), scale
    return found


def nf4(tensors: Mapping[str, Tensor], nested: bool = False) -> dict[str, Tensor]:
    """Return the tensors as bitsandbytes packs them, those that have whole blocks; `nested` quantises the scales, too."""
    found = dict(tensors)
    for name in (f"{layer}.weight" for layer in layers_of(tensors)):
        weight = tensors[name].float()
        if weight.numel() % BLOCK:
            continue
        blocks = weight.reshape(-1, BLOCK)
        largest = blocks.abs().amax(1)
        codes = (blocks / largest[:, None]).flatten()[:, None].sub(NF4).abs().argmin(1).to(torch.uint8)
        found[name] = ((codes[::2] << 4) | codes[1::2])[:, None]
        state = {"quant_type": "nf4", "blocksize": BLOCK, "dtype": "float32", "shape": list(weight.shape)}
        found |= {f"{name}.absmax": largest, f"{name}.quant_map": NF4.clone()}
        if nested:
            offset, levels = largest.mean(), torch.linspace(-1, 1, 256)
            outer = (largest - offset).abs().max()[None]
            codes = ((largest - offset) / outer)[:, None].sub(levels).abs().argmin(1).to(torch.uint8)
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset.item()}
            found |= {f"{name}.absmax": codes, f"{name}.nested_absmax": outer, f"{name}.nested_quant_map": levels}
        packed = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        found[f"{name}.quant_state.bitsandbytes__nf4"] = packed
    return found


def save_gguf(
    tensors: Mapping[str, Tensor], path: Path, kind: str, architecture: str | None = "flux", texts: Mapping[str, str] = {}
) -> None:  # fmt: skip
    """Save tensors as a GGUF file: matrices in the type `kind`, everything else in float32."""
    from gguf import GGMLQuantizationType, GGUFWriter, quantize

    writer = GGUFWriter(path, architecture) if architecture else GGUFWriter(path, "none")
    for key, text in texts.items():
        writer.add_string(key, text)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"] * 50)
    for name, tensor in tensors.items():
        numbers = tensor.float().contiguous().numpy()
        own = (
            GGMLQuantizationType[kind] if tensor.ndim == 2 and numbers.shape[1] % 32 == 0 else GGMLQuantizationType.F32
        )
        if own.name in ("F32", "F16"):
            writer.add_tensor(name, numbers.astype("f4" if own.name == "F32" else "f2"))
        else:
            writer.add_tensor(name, quantize(numbers, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def save_with_metadata_formats(tensors: Mapping[str, Tensor], path: Path, kind: str = "float8_e4m3fn") -> None:
    """Save tensors in ComfyUI's new form, with the formats in the metadata."""
    found = per_layer(tensors, lambda w: w.abs().max() / LARGEST, "weight_scale", E4M3)
    told = {"layers": {layer: {"format": kind} for layer in layers_of(tensors)}}
    save_file(found, path, {"_quantization_metadata": json.dumps(told)})
