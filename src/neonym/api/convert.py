"""An embedding file in another layout, without loss, or with another number of vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from neonym.api.wording import speaking_python
from neonym.errors import ConfigError, FormatError, Problem
from neonym.formats import FORMATS, check_writable, join, one_word, read_words, with_vector_count, write_embedding
from neonym.formats.content import ending_of
from neonym.types import Embedding

if TYPE_CHECKING:
    from PIL.Image import Image

WHITE = (255, 255, 255)  # what a card's image is laid on


@dataclass(frozen=True)
class Conversion:
    """What is asked of a conversion: the files that are read, what is written, and how."""

    files: tuple[Path, ...]  # one file, or two halves of a word, which are joined
    out: str | None = None  # file or folder to write; None: beside the first file
    word: str | None = None  # the word to take out of a file that holds several
    to: str | None = None  # layout, if `out` does not say it
    token: str | None = None  # another name for the word
    vectors: int | None = None  # another number of vectors
    picture: Path | None = None  # for a .png card
    overwrite: bool = False


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
) -> list[Path]:
    """Write an embedding file in another layout and return the files that were written, one for each word.

    Args:
        path: The embedding file, of any program, or the two files that hold the two halves of an SDXL word.
        out: The file to write, whose ending says the layout, or a folder. Default: beside `path`.
        to: The layout, if `out` does not say it: `safetensors`, `pt`, `ckpt`, `bin` or `png`.
        word: The word to take out of a file that holds several.
        token: Another name for the word.
        vectors: So many vectors: the first ones, or all of them again in turn until there are as many.
        picture: The image of a `.png` card.
        overwrite: Whether to replace files that exist.

    Raises FormatError for files that cannot be read or written, ConfigError for arguments that contradict each other.
    """
    paths = (path,) if isinstance(path, (str, Path)) else tuple(path)
    request = Conversion(
        files=tuple(map(Path, paths)),
        out=None if out is None else str(out),
        word=word,
        to=to,
        token=token,
        vectors=vectors,
        picture=None if picture is None else Path(picture),
        overwrite=overwrite,
    )
    with speaking_python():
        return [file for _, file in converted(request)]


def converted(request: Conversion) -> Iterator[tuple[Embedding, Path]]:
    """Write what is asked for, and yield each word with its file. Raises FormatError, ConfigError, DataError."""
    check_arguments(request)
    words = words_asked_for(request)
    if request.token is not None:
        words = [replace(word, token=request.token, metadata=renamed(word.metadata, request.token)) for word in words]
    if request.vectors is not None:
        words = [with_vector_count(word, request.vectors) for word in words]
    files = targets(request, words)
    image = card_image(request, files)
    for word, file in zip(words, files, strict=True):
        check_writable(word, file)
    for word, file in zip(words, files, strict=True):
        yield word, write_embedding(word, file, image)


def check_arguments(request: Conversion) -> None:
    """Raise ConfigError for numbers of files and vectors that mean nothing."""
    found = list[Problem]()
    if not 1 <= len(request.files) <= 2:
        found.append(Problem("error", f"{len(request.files)} files are neither one word nor its two halves"))
    if request.vectors is not None and request.vectors < 1:
        found.append(Problem("error", f"{request.vectors} is less than 1", "--vectors"))
    if request.out is None and request.to is None:
        found.append(Problem("error", "no file to write is named", "", "Name one, or give the layout with --to"))
    if found:
        raise ConfigError(found)


def words_asked_for(request: Conversion) -> list[Embedding]:
    """Return every word of the file, the one that is named, or the one that two files hold the halves of."""
    read = [read_words(file)[0] for file in request.files]
    if request.word is None and len(read) == 1:
        return read[0]
    found = [one_word(words, file, request.word) for words, file in zip(read, request.files, strict=True)]
    return found if len(found) == 1 else [join(list(zip(found, request.files, strict=True)), request.token)]


def renamed(metadata: dict[str, str], token: str) -> dict[str, str]:
    """Return the metadata of a word with another name: what other programs write in prompts follows it."""
    return {name: token if name == "modelspec.trigger_phrase" else text for name, text in metadata.items()}


def targets(request: Conversion, words: list[Embedding]) -> list[Path]:
    """Return a file for each word. Raises ConfigError with everything that is wrong with them."""
    found = list(argument_problems(request, words))
    files = files_for(request, words, found)
    for file in dict.fromkeys(files):
        if files.count(file) > 1:
            fix = "Take the words out one by one: --word"
            found.append(Problem("error", f"would be the file of {files.count(file)} words", str(file), fix))
        if file.exists() and not request.overwrite:
            found.append(Problem("error", "is there already", str(file), "Choose another name, or add --overwrite"))
    if found:
        raise ConfigError(found)
    return files


def argument_problems(request: Conversion, words: list[Embedding]) -> list[Problem]:
    """Return what is wrong with the layout and the new name."""
    found = list[Problem]()
    if request.to is not None and request.to not in FORMATS:
        found.append(Problem("error", f"`{request.to}` is no known layout", "--to", f"Known: {', '.join(FORMATS)}"))
    if request.token is not None and (not request.token.strip() or len(words) > 1):
        what = f"there are {len(words)} words in the file" if len(words) > 1 else "the word has no name"
        found.append(Problem("error", what, "--token", "Leave it out"))
    return found


def files_for(request: Conversion, words: list[Embedding], found: list[Problem]) -> list[Path]:
    """Return the file of each word; what is wrong with their names goes to `found`."""
    first = request.files[0]
    if request.out is None and len(words) == 1:
        return [first.with_name(f"{file_stem(request.token or first.stem)}.{request.to}")]
    out = first.parent if request.out is None else Path(request.out)
    if out.is_dir() or (request.out or "").endswith(("/", "\\")) or len(words) > 1:
        own = ending_of(first)
        ending = request.to or (own if own in FORMATS else "safetensors")
        if len(words) > 1 and ending_of(out) in FORMATS and not out.is_dir():
            fix = "Name a folder, with --to for the layout of the files in it, or choose one with --word"
            found.append(Problem("error", f"is the name of one file, for {len(words)} words", str(out), fix))
        elif out.is_file():
            found.append(Problem("error", f"is a file, for {len(words)} words", str(out), "Name a folder"))
        return [out / f"{file_stem(word.token)}.{ending}" for word in words]
    if request.to is not None and ending_of(out) not in FORMATS:
        return [out.with_name(f"{out.name}.{request.to}")]
    if request.to is not None and ending_of(out) != request.to:
        found.append(Problem("error", f"has another ending than --to={request.to}", str(out), "Leave --to out"))
    return [out]


def file_stem(token: str) -> str:
    """Return a token as the name of a file in a given folder, never elsewhere: a file from somebody else says the token."""
    return token.translate(str.maketrans("/\\\0", "___"))


def card_image(request: Conversion, files: list[Path]) -> Image | None:
    """Return the image for a card, on white; None without one. Raises FormatError, DataError."""
    if request.picture is None:
        return None
    if any(file.suffix.lower() != ".png" for file in files):
        fix = "Leave it out, or add --to png"
        raise FormatError("only a .png card carries an image", f"--picture {request.picture}", fix)
    from neonym.data.colour import on_background
    from neonym.data.images import readable

    with readable(request.picture) as image:
        return on_background(image, WHITE)
