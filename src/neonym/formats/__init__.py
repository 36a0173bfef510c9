"""Read and write embedding files. Each layout is a record (`layout.py`), and `layouts.py` lists them.

Files are written atomically. The writer refuses what would break other programs: missing rows, numbers that are not
finite, rows that are not a table. Reading a file never runs code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL.Image import Image

from neonym.errors import FormatError
from neonym.formats.consumers import check_usable_by_programs, widths_in_words
from neonym.formats.consumers import support_by_program as support_by_program
from neonym.formats.content import FileContent, ending_of, printable_name
from neonym.formats.keys import encoders_by_width, family_of
from neonym.formats.layout import Target
from neonym.formats.layouts import reader_of, writers
from neonym.formats.tensors import OUTPUT, OUTPUT_MEANS, embeddings_of
from neonym.io.atomic import atomic_write
from neonym.models.registry import families
from neonym.text.words import clean
from neonym.types import Embedding

MOST_SHOWN = 8  # words listed in a message


def write_embedding(embedding: Embedding, path: Path | str, picture: Image | None = None) -> Path:
    """Write a word in the layout that the extension of `path` selects, and return the path.

    `picture` is the image on a .png card. Raises FormatError if the file cannot be written.
    """
    path = Path(path)
    check_writable(embedding, path)
    write = writers()[ending_of(path)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, lasting=True) as part:
            write(embedding, Target(part, path.stem, picture))
    except (OSError, RuntimeError) as error:
        raise FormatError(f"cannot be written ({error})", str(path), "Is the disk full?") from error
    return path


def check_writable(embedding: Embedding, path: Path) -> None:
    """Raise FormatError if the extension of `path` is unknown, or if the file would break other programs."""
    if ending_of(path) not in writers():
        fix = f"Use one of: {', '.join(writers())}"
        raise FormatError(f"`{path.suffix}` is not a known file extension", str(path), fix)
    check_vectors(embedding, path)
    check_usable_by_programs(embedding, path)


def check_vectors(embedding: Embedding, path: Path) -> None:
    """Raise FormatError if the vectors cannot be a word. Files are checked both when written and when read."""
    if not embedding.vectors:
        raise FormatError("contains no vectors", str(path))
    counts = {rows.shape[0] for rows in embedding.vectors.values() if rows.ndim == 2}
    for name, rows in embedding.vectors.items():
        if rows.ndim != 2 or 0 in rows.shape:
            raise FormatError(f"{name}: the shape {tuple(rows.shape)} is not a table of vectors", str(path))
        if not rows.is_floating_point():
            raise FormatError(f"{name}: vectors cannot be of the type {rows.dtype}", str(path))
        if not bool(rows.isfinite().all()):
            raise FormatError(f"{name}: some numbers are not finite", str(path))
    family = family_of(embedding)
    if len(counts) > 1 and not (family and family.partial_words):
        raise FormatError(f"the encoders have different numbers of vectors {sorted(counts)}", str(path))


def read_embedding(path: Path | str, word: str | None = None) -> Embedding:
    """Return the only word of a file in any layout, or the one called `word`, with float32 vectors.

    Raises FormatError if the file cannot be read, or if it holds several words and `word` does not select one.
    """
    return one_word(read_words(path)[0], path, word)


def one_word(found: list[Embedding], path: Path | str, word: str | None = None) -> Embedding:
    """Return the only word of a file, or the one called `word`. Raises FormatError if there is not exactly one."""
    called = [embedding for embedding in found if word is None or clean(embedding.token) == clean(word)]
    if len(called) == 1:
        return called[0]
    names = ", ".join(embedding.token for embedding in found[:MOST_SHOWN]) + ", ..." * (len(found) > MOST_SHOWN)
    if not called:
        raise FormatError(f"has no word `{word}`, but {names}", str(path), "Choose one of these")
    how = f"neonym convert {path} {called[0].token}.safetensors --word {called[0].token}"
    raise FormatError(f"holds {len(called)} words ({names})", str(path), f"Extract the one that you want: {how}")


def read_words(path: Path | str) -> tuple[list[Embedding], FileContent]:
    """Return every word of a file, and the content of the file. Raises FormatError if it cannot be read."""
    content = read_content(path)
    return words_of(content, path), content


def read_content(path: Path | str) -> FileContent:
    """Return what a file holds.

    The layout follows from its bytes, not its name. Raises FormatError if it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        raise FormatError("is a folder", str(path), "Name a file in it")
    if not path.is_file():
        raise FormatError("there is no such file", str(path))
    try:
        return reader_of(path)(path)
    except OSError as error:
        raise FormatError(f"cannot be read ({error.strerror})", str(path)) from error


def words_of(content: FileContent, path: Path | str) -> list[Embedding]:
    """Return every word in the content of a file. Raises FormatError if one of them is not valid."""
    try:
        found = embeddings_of(content, Path(path))
    except RuntimeError as error:  # raised for dtypes that torch cannot compute with
        raise FormatError(f"its numbers cannot be read ({str(error)[:80]})", str(path)) from error
    for word in found:
        check_vectors(word, Path(path))
    return found


def join(halves: Sequence[tuple[Embedding, Path]], token: str | None = None) -> Embedding:
    """Return one word joined from two files, one for each text encoder, in either order.

    Raises FormatError if they are not the two halves of one word.
    """
    where = " and ".join(str(file) for _, file in halves)
    rows = {str(i): rows for i, rows in enumerate(rows for word, _ in halves for rows in word.vectors.values())}
    encoders = encoders_by_width({key: table.shape[1] for key, table in rows.items()}) if len(rows) == 2 else {}
    if not encoders:
        what = f"are not the two halves of one word: they have vectors of {', '.join(str(r.shape[1]) for r in rows.values())} numbers"
        raise FormatError(
            what, where, f"Join {' or '.join(map(widths_in_words, [f for f in families() if len(f.encoders) == 2]))}"
        )
    named = {clean(word.token): word.token for word, file in halves if word.token != file.stem}
    if len(named) > 1 and token is None:
        raise FormatError(
            f"are different words ({', '.join(named.values())})", where, "Name the joined word with --token"
        )
    metadata = {name: text for word, _ in reversed(halves) for name, text in word.metadata.items()}
    own = next(iter(named.values()), halves[0][0].token)
    joined = Embedding(own, {name: rows[key] for name, key in encoders.items()}, metadata)
    check_vectors(joined, Path(where))
    return joined


def left_out_note(embedding: Embedding) -> str:
    """Return a note that lists the tensors of the file that are not part of the word and were not read."""
    outputs = [name for name in embedding.left_out if OUTPUT.fullmatch(name)]
    others = [name for name in embedding.left_out if name not in outputs]
    parts = [f"{OUTPUT_MEANS} ({', '.join(outputs)}), which apply after the text encoder"] if outputs else []
    parts += (
        [f"other tensors ({', '.join(printable_name(name[:40]) for name in others[:MOST_SHOWN])})"] if others else []
    )
    return f"left out: {' and '.join(parts)}"


def with_encoders(embedding: Embedding, keys: Sequence[str], path: Path | str) -> Embedding:
    """Return a word with its vectors for some encoders only, given by their keys in files (`clip_l`) or components.

    Raises FormatError for an encoder that the word has no vectors for, and if its family needs all of them.
    """
    family, of_keys = family_of(embedding), dict[str, str]()
    for spec in family.encoders if family else ():
        of_keys |= {key: spec.name for key in (*spec.keys, spec.name) if spec.name in embedding.vectors}
    unknown = [key for key in keys if key not in of_keys]
    if family is None or unknown:
        usual = [spec.file_key for spec in (family.encoders if family else ()) if spec.name in embedding.vectors]
        raise FormatError(
            f"has no vectors for {', '.join(unknown or keys)}", str(path), f"It has {', '.join(usual) or 'none'}"
        )
    chosen = {of_keys[key] for key in keys}
    if not family.allows(chosen):
        what = f"a word for {family.label} needs the vectors of all of its text encoders"
        raise FormatError(what, str(path), "Leave --encoders out")
    vectors = {name: rows for name, rows in embedding.vectors.items() if name in chosen}
    return replace(embedding, vectors=vectors, names={n: k for n, k in embedding.names.items() if n in chosen})


def with_vector_count(embedding: Embedding, count: int) -> Embedding:
    """Return a word with `count` vectors: its first ones, or all of them repeated in turn if it has fewer."""
    vectors = {
        name: rows[[i % len(rows) for i in range(count)]].contiguous() for name, rows in embedding.vectors.items()
    }
    recorded = {"neonym.vectors": str(count)} if "neonym.vectors" in embedding.metadata else {}
    return replace(embedding, vectors=vectors, metadata={**embedding.metadata, **recorded})
