"""ComfyUI's search for an encoder's vectors in an embedding file, written from its documented order."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


def vectors_for(path: Path, key: str, width: int) -> torch.Tensor | None:
    """Return the vectors [n,W] that the tokenizer with this key takes from a file; None if they are dropped.

    The order is `string_to_param`, a list of tables, the key itself, the words of a LoRA, and then the first tensor.
    Vectors of another width are dropped with a warning.
    """
    content: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    found = search(content, key, width)
    rows = None if found is None else found.reshape(-1, found.shape[-1]).float()
    return rows if rows is not None and rows.shape[1] == width else None


def search(content: Any, key: str, width: int) -> torch.Tensor | None:
    """Return the tensor that the search ends at."""
    if isinstance(content, list):
        fitting = [t.reshape(-1, t.shape[-1]) for table in content for t in table.values() if t.shape[-1] == width]
        return torch.cat(fitting) if fitting else None
    if "string_to_param" in content:
        return next(iter(content["string_to_param"].values()))
    if key in content:
        return content[key]
    for ending in (".string_to_param.*", f".{key}"):
        for name, tensor in content.items():
            if name.startswith("bundle_emb.") and name.endswith(ending):
                return tensor
    return next(iter(content.values()), None)
