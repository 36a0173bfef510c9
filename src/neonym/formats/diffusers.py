"""Write the .bin layout of diffusers' example: one tensor [n,W] named after the word, or one for each text encoder."""

from neonym.formats import automatic1111
from neonym.formats.keys import file_tensors
from neonym.formats.layout import Layout, Target
from neonym.types import Embedding


def write(embedding: Embedding, target: Target) -> None:
    """Write a word as one tensor, since diffusers accepts no other keys, or as one tensor for each text encoder."""
    tensors = file_tensors(embedding, twins=True)
    if len(embedding.vectors) == 1:
        tensors = {embedding.token: next(iter(tensors.values()))}
    target.path.write_bytes(automatic1111.plain_zip(tensors, embedding))


LAYOUT = Layout("diffusers' pickle", write=write, extensions=("bin",))
