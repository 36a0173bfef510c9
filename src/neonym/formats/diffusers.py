"""The .bin layout that diffusers' own example writes: one tensor [n,W] under the word."""

from pathlib import Path

from neonym.errors import FormatError
from neonym.formats import automatic1111
from neonym.formats.tensors import ENCODER
from neonym.types import Embedding

read = automatic1111.read


def write(embedding: Embedding, path: Path) -> None:
    """Raises FormatError for more than one encoder: diffusers loads them one by one, from `clip_l` and `clip_g`."""
    if set(embedding.vectors) != {ENCODER}:
        fix = "Write .safetensors: diffusers loads each encoder's tensor of it by a call of its own"
        raise FormatError("this layout holds one encoder", str(path), fix)
    rows = embedding.vectors[ENCODER].detach().cpu().contiguous()
    path.write_bytes(automatic1111.plain_zip({embedding.token: rows}))
