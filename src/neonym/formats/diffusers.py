"""Write the .bin layout of diffusers' example: one tensor [n,W] under the word, or `clip_l` and `clip_g` for SDXL."""

from pathlib import Path

from neonym.formats import automatic1111
from neonym.formats.tensors import ENCODER, SECOND
from neonym.types import Embedding


def write(embedding: Embedding, path: Path) -> None:
    """Write a word to `path` as one tensor, because diffusers accepts nothing beside it, or as two for SDXL."""
    if SECOND in embedding.vectors:
        automatic1111.write(embedding, path)
        return
    rows = embedding.vectors[ENCODER].detach().cpu().contiguous()
    path.write_bytes(automatic1111.plain_zip({embedding.token: rows}, embedding))
