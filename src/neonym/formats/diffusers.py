"""Write the .bin layout of diffusers' example: one tensor [n,W] named after the word, or SDXL's `clip_l` and `clip_g`."""

from neonym.formats import automatic1111
from neonym.formats.layout import Layout, Target
from neonym.formats.tensors import ENCODER, SECOND
from neonym.types import Embedding


def write(embedding: Embedding, target: Target) -> None:
    """Write a word as one tensor, since diffusers accepts no other keys, or as two tensors for SDXL."""
    if SECOND in embedding.vectors:
        automatic1111.write(embedding, target)
        return
    rows = embedding.vectors[ENCODER].detach().cpu().contiguous()
    target.path.write_bytes(automatic1111.plain_zip({embedding.token: rows}, embedding))


LAYOUT = Layout("diffusers' pickle", write=write, extensions=("bin",))
