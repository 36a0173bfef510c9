"""Write the .bin layout of diffusers' example: one tensor [n,W] named after the word, or SDXL's `clip_l` and `clip_g`."""

from pathlib import Path

from neonym.formats import automatic1111
from neonym.formats.tensors import ENCODER, SECOND
from neonym.types import Embedding


def write(embedding: Embedding, path: Path) -> None:
    """Write a word to `path` as one tensor, since diffusers accepts no other keys, or as two tensors for SDXL."""
    if SECOND in embedding.vectors:
        automatic1111.write(embedding, path)
        return
    rows = embedding.vectors[ENCODER].detach().cpu().contiguous()
    path.write_bytes(automatic1111.plain_zip({embedding.token: rows}, embedding))
