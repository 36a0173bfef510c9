"""Write the .bin layout of diffusers' example: one tensor [n,W] named after the word, or SDXL's `clip_l` and `clip_g`."""

from neonym.formats import automatic1111
from neonym.formats.keys import PLAIN, file_tensors
from neonym.formats.layout import Layout, Target
from neonym.types import Embedding


def write(embedding: Embedding, target: Target) -> None:
    """Write a word as one tensor, since diffusers accepts no other keys, or as two tensors for SDXL."""
    tensors = file_tensors(embedding)
    if PLAIN in tensors:
        tensors = {embedding.token: tensors[PLAIN]}
    target.path.write_bytes(automatic1111.plain_zip(tensors, embedding))


LAYOUT = Layout("diffusers' pickle", write=write, extensions=("bin",))
