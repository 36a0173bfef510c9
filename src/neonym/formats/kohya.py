"""The .safetensors layout of sd-scripts, read by every current program: one tensor `emb_params` [n,W].

Files with one tensor under another name (diffusers writes the token, OneTrainer `emp_params`) are read too.
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from neonym.errors import FormatError
from neonym.types import Embedding

KEY = "emb_params"
ENCODER = "text_encoder"


def write(embedding: Embedding, path: Path) -> None:
    """Write a one-encoder embedding. Raises FormatError."""
    if set(embedding.vectors) != {ENCODER}:
        raise FormatError(f"this layout holds one encoder, not {sorted(embedding.vectors)}", str(path))
    metadata = {"format": "pt", "token": embedding.token, **embedding.metadata}
    path.write_bytes(in_order(save({KEY: embedding.vectors[ENCODER].detach().cpu().contiguous()}, metadata)))


def in_order(content: bytes) -> bytes:
    """A .safetensors file with its header sorted: the library writes metadata in random order, so that the same
    embedding would give another file each time."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the data stays aligned
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def read(path: Path) -> Embedding:
    """Read a file with exactly one tensor. Raises FormatError."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            metadata = dict(file.metadata() or {})
            if len(names) != 1:
                raise FormatError(f"has {len(names)} tensors ({', '.join(names[:4])}); one is expected", str(path))
            rows = file.get_tensor(names[0])
    except (SafetensorError, OSError) as error:
        raise FormatError(f"is damaged or not a .safetensors file ({error})", str(path)) from error
    return Embedding(metadata.get("token", path.stem), {ENCODER: rows}, metadata)
