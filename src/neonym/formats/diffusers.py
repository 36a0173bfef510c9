"""The .bin layout that diffusers' own example writes: one tensor [n,W] under the word; for SDXL `clip_l` and `clip_g`."""

from pathlib import Path

from neonym.formats import automatic1111
from neonym.formats.tensors import ENCODER, SECOND
from neonym.types import Embedding


def write(embedding: Embedding, path: Path) -> None:
    """diffusers takes nothing beside the one tensor. SDXL's two are loaded one by one."""
    if SECOND in embedding.vectors:
        automatic1111.write(embedding, path)
        return
    rows = embedding.vectors[ENCODER].detach().cpu().contiguous()
    path.write_bytes(automatic1111.plain_zip({embedding.token: rows}, embedding))
