"""The .safetensors layout of sd-scripts, read by every current program: `emb_params` [n,W], for SDXL `clip_l` and `clip_g`."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from neonym.errors import FormatError
from neonym.formats.tensors import BUNDLE, ENCODER, SECOND, embedding_of
from neonym.types import Embedding

KEY = "emb_params"


def write(embedding: Embedding, path: Path) -> None:
    """Raises FormatError for encoders that no program knows by this layout."""
    rows = {name: table.detach().cpu().contiguous() for name, table in embedding.vectors.items()}
    if set(rows) == {ENCODER}:
        tensors = {KEY: rows[ENCODER]}
    elif set(rows) == {ENCODER, SECOND}:
        tensors = {"clip_l": rows[ENCODER], "clip_g": rows[SECOND]}
    else:
        raise FormatError(f"this layout holds one encoder or SDXL's two, not {sorted(rows)}", str(path))
    metadata = {"format": "pt", "token": embedding.token, **embedding.metadata}
    path.write_bytes(in_order(save(tensors, metadata)))


def in_order(content: bytes) -> bytes:
    """A .safetensors file with its header sorted: the library writes metadata in random order, so that the same
    embedding would give another file each time."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the data stays aligned
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def read(path: Path) -> Embedding:
    """One tensor under any name, SDXL's two, or what a LoRA file carries. Raises FormatError."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            bundled = [name for name in names if name.startswith(BUNDLE)]
            if len(bundled or names) > 16:
                raise FormatError(f"has {len(bundled or names)} tensors: that is no embedding", str(path))
            tensors = {name: file.get_tensor(name) for name in bundled or names}
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise FormatError(f"is damaged or not a .safetensors file ({error})", str(path)) from error
    return embedding_of(tensors, path, metadata)
