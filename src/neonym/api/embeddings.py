"""Read and write the word of an embedding file, with messages that name settings."""

from neonym import formats
from neonym.api.wording import python_wording

read_embedding = python_wording()(formats.read_embedding)
write_embedding = python_wording()(formats.write_embedding)
