"""The .safetensors layout of sd-scripts, read by every current program: `emb_params` [n,W], for SDXL `clip_l` and `clip_g`."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from neonym.errors import FormatError
from neonym.formats.content import MOST_TENSORS, Stored, check_kind
from neonym.formats.tensors import BUNDLE, ENCODER, SECOND
from neonym.types import Embedding

KEY = "emb_params"
MOST_BUNDLED = 1024  # tensors of the words in a LoRA file


def write(embedding: Embedding, path: Path) -> None:
    """One encoder, or SDXL's two."""
    rows = {name: table.detach().cpu().contiguous() for name, table in embedding.vectors.items()}
    tensors = {"clip_l": rows[ENCODER], "clip_g": rows[SECOND]} if SECOND in rows else {KEY: rows[ENCODER]}
    metadata = {"format": "pt", **embedding.metadata, "token": embedding.token}
    path.write_bytes(in_order(save(tensors, metadata)))


def in_order(content: bytes) -> bytes:
    """A .safetensors file with its header sorted: the library writes metadata in random order, so that the same
    embedding would give another file each time."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the data stays aligned
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def read(path: Path) -> Stored:
    """All tensors of a small file, or what a LoRA file carries. Raises FormatError."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            bundled = [name for name in names if name.startswith(BUNDLE)]
            wanted = bundled or names
            if len(wanted) > (MOST_BUNDLED if bundled else MOST_TENSORS):
                raise FormatError(f"has {len(wanted)} tensors: that is no embedding{hint(names)}", str(path))
            tensors = {name: tensor_of(file, name, path) for name in wanted}
            return Stored("safetensors", "safetensors", tensors, dict(file.metadata() or {}))
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise FormatError(f"is damaged or not a .safetensors file ({error})", str(path)) from error


def tensor_of(file: Any, name: str, path: Path) -> Any:
    """Raises FormatError for one that is too large to be read."""
    check_kind(name, tuple(file.get_slice(name).get_shape()), None, path)
    return file.get_tensor(name)


def hint(names: list[str]) -> str:
    """What it seems to be instead."""
    if any(name.startswith(("model.diffusion_model.", "first_stage_model.")) for name in names):
        return " but a model"
    return " but a LoRA, and there is no word in it" if any("lora_" in name for name in names) else ""
