"""Conversion of embedding files: to another layout, without loss, or to another number of vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from neonym.api.wording import python_wording
from neonym.errors import ConfigError, FormatError, Problem
from neonym.formats import (
    check_writable,
    join,
    one_word,
    read_words,
    with_encoders,
    with_vector_count,
    write_embedding,
)
from neonym.formats.content import ending_of
from neonym.formats.layouts import writers
from neonym.types import Embedding

if TYPE_CHECKING:
    from PIL.Image import Image

WHITE = (255, 255, 255)  # the background of a transparent card image


@dataclass(frozen=True)
class ConversionRequest:
    """The arguments of a conversion: the files to read, what to write, and how."""

    files: tuple[Path, ...]  # one file, or the two halves of a word, which are joined
    out: str | None = None  # the file or folder to write; None: beside the first file
    word: str | None = None  # the word to extract from a file that holds several
    to: str | None = None  # the layout, if `out` has no extension that names it
    token: str | None = None  # a new name for the word
    vectors: int | None = None  # a new number of vectors
    picture: Path | None = None  # the image of a .png card
    overwrite: bool = False
    encoders: tuple[str, ...] = ()  # the text encoders whose vectors are written; empty: all


def convert(
    path: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    to: str | None = None,
    word: str | None = None,
    token: str | None = None,
    vectors: int | None = None,
    picture: str | Path | None = None,
    overwrite: bool = False,
    encoders: Sequence[str] = (),
) -> list[Path]:
    """Write an embedding file in another layout, and return the files that were written, one for each word.

    Args:
        path: The embedding file, of any program, or the two files with the halves of an SDXL word.
        out: The file to write, whose extension is the layout, or a folder. Default: beside `path`.
        to: The layout, if `out` does not name it: `safetensors`, `pt`, `ckpt`, `bin` or `png`.
        word: The word to extract from a file that holds several.
        token: A new name for the word.
        vectors: The number of vectors to write: the first ones, or all of them repeated in turn.
        picture: The image of a `.png` card.
        overwrite: Whether to replace existing files.
        encoders: The text encoders whose vectors are written, by their keys in files such as `clip_l` (default: all).

    Raises FormatError for files that cannot be read or written, DataError for an image that cannot be read, and
    ConfigError for invalid or contradictory arguments.
    """
    paths = (path,) if isinstance(path, (str, Path)) else tuple(path)
    request = ConversionRequest(
        files=tuple(map(Path, paths)),
        out=None if out is None else str(out),
        word=word,
        to=to,
        token=token,
        vectors=vectors,
        picture=None if picture is None else Path(picture),
        overwrite=overwrite,
        encoders=tuple(encoders),
    )
    with python_wording():
        return [file for _, file in convert_words(request)]


def convert_words(request: ConversionRequest) -> Iterator[tuple[Embedding, Path]]:
    """Carry out a conversion, yielding each word with its file. Raises FormatError, ConfigError and DataError."""
    check_arguments(request)
    words = requested_words(request)
    if request.token is not None:
        words = [
            replace(word, token=request.token, metadata=renamed_metadata(word.metadata, request.token))
            for word in words
        ]
    if request.encoders:
        words = [with_encoders(word, request.encoders, request.files[0]) for word in words]
    if request.vectors is not None:
        words = [with_vector_count(word, request.vectors) for word in words]
    files = output_files(request, words)
    image = card_image(request, files)
    for word, file in zip(words, files, strict=True):
        check_writable(word, file)
    for word, file in zip(words, files, strict=True):
        yield word, write_embedding(word, file, image)


def check_arguments(request: ConversionRequest) -> None:
    """Raise ConfigError for an invalid number of files or vectors, or without an output."""
    found = list[Problem]()
    if not 1 <= len(request.files) <= 2:
        found.append(Problem("error", f"{len(request.files)} files are neither one file nor the two halves of a word"))
    if request.vectors is not None and request.vectors < 1:
        found.append(Problem("error", f"{request.vectors} is less than 1", "--vectors"))
    if request.out is None and request.to is None:
        found.append(Problem("error", "no output file is named", "", "Name one, or choose the layout with --to"))
    if found:
        raise ConfigError(found)


def requested_words(request: ConversionRequest) -> list[Embedding]:
    """Return every word of the file, the requested one, or the word that two files hold the halves of."""
    read = [read_words(file)[0] for file in request.files]
    if request.word is None and len(read) == 1:
        return read[0]
    found = [one_word(words, file, request.word) for words, file in zip(read, request.files, strict=True)]
    return found if len(found) == 1 else [join(list(zip(found, request.files, strict=True)), request.token)]


def renamed_metadata(metadata: dict[str, str], token: str) -> dict[str, str]:
    """Return the metadata of a renamed word, with the new name as its trigger phrase."""
    return {name: token if name == "modelspec.trigger_phrase" else text for name, text in metadata.items()}


def output_files(request: ConversionRequest, words: list[Embedding]) -> list[Path]:
    """Return the output file of each word. Raises ConfigError with all problems of the arguments and the files."""
    found = list(argument_problems(request, words))
    files = proposed_files(request, words, found)
    for file in dict.fromkeys(files):
        if files.count(file) > 1:
            fix = "Extract the words one by one with --word"
            found.append(Problem("error", f"would be the file of {files.count(file)} words", str(file), fix))
        if file.exists() and not request.overwrite:
            found.append(Problem("error", "exists already", str(file), "Choose another name, or add --overwrite"))
    if found:
        raise ConfigError(found)
    return files


def argument_problems(request: ConversionRequest, words: list[Embedding]) -> list[Problem]:
    """Return the problems of the layout and the new name."""
    found = list[Problem]()
    if request.to is not None and request.to not in writers():
        found.append(
            Problem("error", f"`{request.to}` is not a known layout", "--to", f"Known: {', '.join(writers())}")
        )
    if request.token is not None and (not request.token.strip() or len(words) > 1):
        what = f"cannot name all {len(words)} words of the file" if len(words) > 1 else "the name is empty"
        found.append(Problem("error", what, "--token", "Leave it out"))
    return found


def proposed_files(request: ConversionRequest, words: list[Embedding], found: list[Problem]) -> list[Path]:
    """Return the output file of each word, and append problems of their names to `found`."""
    first = request.files[0]
    if request.out is None and len(words) == 1:
        return [first.with_name(f"{file_stem(request.token or first.stem)}.{request.to}")]
    out = first.parent if request.out is None else Path(request.out)
    if out.is_dir() or (request.out or "").endswith(("/", "\\")) or len(words) > 1:
        own = ending_of(first)
        ending = request.to or (own if own in writers() else "safetensors")
        if len(words) > 1 and ending_of(out) in writers() and not out.is_dir():
            fix = "Name a folder, with --to for the layout of the files in it, or choose one with --word"
            found.append(Problem("error", f"is a single file, but there are {len(words)} words", str(out), fix))
        elif out.is_file():
            found.append(Problem("error", f"is a file, but there are {len(words)} words", str(out), "Name a folder"))
        return [out / f"{file_stem(word.token)}.{ending}" for word in words]
    if request.to is not None and ending_of(out) not in writers():
        return [out.with_name(f"{out.name}.{request.to}")]
    if request.to is not None and ending_of(out) != request.to:
        found.append(Problem("error", f"has an extension other than --to={request.to}", str(out), "Leave --to out"))
    return [out]


def file_stem(token: str) -> str:
    """Return a token as a file name without folders, because the token may come from someone else's file."""
    return token.translate(str.maketrans("/\\\0", "___"))


def card_image(request: ConversionRequest, files: list[Path]) -> Image | None:
    """Return the image of a card on a white background; None without one. Raises FormatError and DataError."""
    if request.picture is None:
        return None
    if any(file.suffix.lower() != ".png" for file in files):
        fix = "Leave it out, or add --to png"
        raise FormatError("only a .png card carries an image", f"--picture {request.picture}", fix)
    from neonym.data.colour import on_background
    from neonym.data.images import readable

    with readable(request.picture) as image:
        return on_background(image, WHITE)
