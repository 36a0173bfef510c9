"""Reading and writing the word of an embedding file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from neonym import formats
from neonym.api.wording import python_wording
from neonym.types import Embedding

if TYPE_CHECKING:
    from PIL.Image import Image


def read_embedding(path: Path | str, word: str | None = None) -> Embedding:
    """Return the only word of a file in any layout, or the one called `word`, with float32 vectors.

    Raises FormatError if the file cannot be read, or if it holds several words and `word` does not select one.
    """
    with python_wording():
        return formats.read_embedding(path, word)


def write_embedding(embedding: Embedding, path: Path | str, picture: Image | None = None) -> Path:
    """Write a word in the layout that the extension of `path` selects, and return the path.

    `picture` is the image on a .png card. Raises FormatError if the file cannot be written.
    """
    with python_wording():
        return formats.write_embedding(embedding, path, picture)
