"""Add the words of embedding files to a loaded model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from neonym.errors import FormatError, ModelError
from neonym.formats import MOST_SHOWN, one_word, read_words
from neonym.formats.fitting import INIT_WORD, OTHER_MODEL, fitted, misfit
from neonym.models.model import Model
from neonym.models.text_side import TextSide
from neonym.types import Embedding


def add_embedding(model: Model, embedding: Embedding, word: str | None = None) -> str:
    """Add `word` (default: the embedding's token) to the model, with the learned rows, and return it.

    A text encoder for which there are no rows reads the init word in its place. Raises ModelError if the rows do not
    fit the model.
    """
    word, source = word or embedding.token, model.source
    widths = {name: model.text.vocabulary(name).shape[1] for name in source.encoders}
    embedding = fitted(embedding, source.family, widths)
    if what := misfit(word, embedding, source.family, widths, source.name):
        raise ModelError(what, source.name, OTHER_MODEL)
    rows = {name: rows.to(model.device) for name, rows in embedding.vectors.items()}
    model.text.add_word(word, rows, stand_in_ids(model.text, embedding))
    return word


def stand_in_ids(text: TextSide, embedding: Embedding) -> dict[str, list[int]]:
    """Return the ids that each encoder reads for a word for which it has no rows: those of the init word, if known."""
    return text.lexicon.ids_of(embedding.metadata.get(INIT_WORD, ""))


def add_files(model: Model, files: Iterable[str | Path]) -> list[str]:
    """Add embedding files to the model and return their words.

    A word is the file name without its extension, or what stands before `=`. Raises FormatError for a file that cannot
    be read or whose word is already in use, ModelError for one that does not fit the model.
    """
    words = []
    for given in files:
        word, file = word_and_file(given)
        try:
            words.append(add_embedding(model, read_given(given), word))
        except ValueError as error:
            raise FormatError(str(error), str(file), "Rename one of the files, or write WORD=FILE") from error
    return words


def read_given(given: str | Path) -> Embedding:
    """Return the embedding in a file or, if there are several, the one named before `=`. Raises FormatError."""
    word, file = word_and_file(given)
    found, _ = read_words(file)
    if len(found) > 1 and str(file) != str(given):
        return one_word(found, file, word)
    if len(found) > 1:
        names = ", ".join(f"`{embedding.token}`" for embedding in found[:MOST_SHOWN])
        raise FormatError(
            f"the file holds {len(found)} words ({names})", str(file), f"Write WORD={file} with one of them as WORD"
        )
    return found[0]


def word_and_file(given: str | Path) -> tuple[str, Path]:
    """Return the word and the path that `word=file.safetensors` or `file.safetensors` names.

    Without `word=`, the word is the file name without its extension.
    """
    path = Path(given)
    word, equals, rest = str(given).partition("=")
    if equals and not path.exists():
        return word, Path(rest)
    return path.stem, path
