"""Find out how a file stores weights in fewer bits, and refuse what cannot be read. This module does not need torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neonym.errors import ModelError, some
from neonym.models.loading.file_roles import METADATA_QUANT, SCALE_NEW, SCALE_OLD
from neonym.models.loading.gguf_names import library_names
from neonym.models.loading.header import Header, Shape
from neonym.models.loading.weight_files import read_header

MARKER = "scaled_fp8"  # says that a file in ComfyUI's old form has scales
FORMAT = ".comfy_quant"  # of a layer, as JSON in bytes
READABLE = ("float8_e4m3fn", "float8_e5m2")  # formats of ComfyUI's new form with one scale per tensor
EIGHT = ("F8_E4M3", "F8_E5M2")
UNUSED = (".scale_input", ".input_scale", FORMAT, f".{MARKER}")  # what a frozen network does not need
NF4 = (".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4")
NF4_LEAVES = (*NF4, ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
USE_OTHER = "Use the model's file in bf16, fp16, or scaled fp8"


@dataclass(frozen=True)
class Plan:
    """A frozen record of how to make the tensors of a file plain."""

    plain: Mapping[str, Shape]  # name -> shape, without scales and other helpers
    scales: Mapping[str, str]  # weight -> its scale
    packed: Mapping[str, str]  # weight -> its quant_state


def plan_of(file: Path, header: Header, starts: tuple[str, ...] = ("",)) -> Plan:
    """Return how to read the tensors with one of the prefixes `starts`.

    Raises ModelError for numbers that cannot be read: unknown formats, missing scales.
    """
    shapes = {name: shape for name, shape in header.shapes.items() if name.startswith(starts)}
    if header.container == "gguf":
        names = library_names(header.shapes)
        return Plan(
            {names[name]: shape for name, shape in header.shapes.items() if names[name].startswith(starts)}, {}, {}
        )
    packed = {n.removesuffix(end): n for n in shapes for end in NF4 if n.endswith(end)}
    if not packed and not is_quantized(header, shapes):
        return Plan(shapes, {}, {})
    scales = {weight: scale for weight in shapes if (scale := scale_of(weight, shapes)) is not None}
    refuse_formats(file, header, shapes)
    refuse_missing_scales(file, header, shapes, scales)
    helpers = {*scales.values(), *(f"{weight}{leaf}" for weight in packed for leaf in NF4_LEAVES)}
    plain = {n: s for n, s in shapes.items() if n not in helpers and not n.endswith(UNUSED) and n != MARKER}
    return Plan(plain | {weight: packed_state(file, state)[0] for weight, state in packed.items()}, scales, packed)


def is_quantized(header: Header, shapes: Mapping[str, Shape]) -> bool:
    """Return whether tensors have scales, or formats that need them."""
    if METADATA_QUANT in header.metadata or MARKER in shapes:
        return True
    return any(name.endswith((SCALE_OLD, SCALE_NEW, FORMAT, f".{MARKER}")) for name in shapes)


def is_quantized_file(file: Path) -> bool:
    """Return whether tensors of a file have to be made plain. Raises ModelError if it is damaged."""
    header = read_header(file)
    packed = is_quantized(header, header.shapes) or any(name.endswith(NF4) for name in header.shapes)
    return header.container == "gguf" or packed or not {*EIGHT}.isdisjoint(header.dtypes.values())


def scale_of(weight: str, names: Mapping[str, Shape]) -> str | None:
    """Return the name of the scale of a weight, or None."""
    layer = weight.removesuffix(".weight")
    if layer == weight:
        return None
    return next((own for own in (f"{layer}{SCALE_OLD}", f"{layer}{SCALE_NEW}") if own in names), None)


def refuse_formats(file: Path, header: Header, shapes: Mapping[str, Shape]) -> None:
    """Raise ModelError if layers are stored in formats that cannot be read."""
    formats = {layer: kind for layer, kind in formats_of(file, header, shapes).items() if kind not in READABLE}
    if formats:
        kinds = ", ".join(sorted(set(formats.values())))
        what = f"has weights in the format {kinds}, which cannot be read ({some(sorted(formats))})"
        raise ModelError(what, str(file), USE_OTHER)


def formats_of(file: Path, header: Header, shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Return the format of each layer that has one, in ComfyUI's new form. Raises ModelError if they are damaged."""
    try:
        told = json.loads(header.metadata.get(METADATA_QUANT, "{}")).get("layers", {})
        found = {str(layer): str(own["format"]) for layer, own in told.items()}
        for name in shapes:
            if name.endswith(FORMAT):
                found[name.removesuffix(FORMAT)] = str(bytes_as_json(file, name)["format"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"does not say how its weights are quantised ({error})", str(file), USE_OTHER) from error
    if any(name.endswith(f"{SCALE_NEW}_2") for name in shapes):
        found.setdefault("its layers", "nvfp4")
    return found


def bytes_as_json(file: Path, name: str) -> dict[str, Any]:
    """Return the object that a tensor of bytes holds as JSON. Raises ValueError."""
    from safetensors import safe_open

    with safe_open(file, framework="np") as opened:
        return json.loads(opened.get_tensor(name).tobytes().decode("utf-8"))


def refuse_missing_scales(
    file: Path, header: Header, shapes: Mapping[str, Shape], scales: Mapping[str, str]
) -> None:  # fmt: skip
    """Raise ModelError if a file with scaled weights lacks the scales of some: cast alone, they would be noise."""
    eight = [name for name, shape in shapes.items() if header.dtypes.get(name) in EIGHT and len(shape) > 1]
    missing = sorted(name for name in eight if name not in scales)
    if missing:
        what = f"has scaled fp8 without scales: those of {len(missing)} weights are missing ({some(missing)})"
        raise ModelError(what, str(file), "Is the file complete? Use its bf16 or fp16 version")


def packed_state(file: Path, name: str) -> tuple[Shape, dict[str, Any]]:
    """Return the shape of a packed weight, and what else its quant_state says. Raises ModelError if it is damaged."""
    try:
        state = bytes_as_json(file, name)
        shape = tuple(int(side) for side in state["shape"])
        int(state["blocksize"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"does not say how its weights are packed ({error})", str(file), USE_OTHER) from error
    return shape, state
