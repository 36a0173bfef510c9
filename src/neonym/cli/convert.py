"""`neonym convert IN OUT`: an embedding file in another layout, without loss, or with another number of vectors.

`neonym convert A B OUT` joins the two files that diffusers' example writes for SDXL.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from pydantic import BaseModel, Field

from neonym.config.flags import parse_flags
from neonym.errors import ConfigError, FormatError, Problem

if TYPE_CHECKING:
    from PIL.Image import Image

    from neonym.types import Embedding

DESCRIPTION = "Write an embedding file in another layout. The endings say which: .safetensors, .pt, .ckpt, .bin, .png."


class ConvertFlags(BaseModel):
    """The flags of conversion."""

    first: tyro.conf.Positional[str] = Field(description="Embedding file, of any program.")
    second: tyro.conf.Positional[str] = Field(
        description="File to write; or a folder, where each word of a file with several gets a file of its name. "
        "If a third one is named: another file, for the other text encoder of SDXL; both are joined."
    )
    third: tyro.conf.Positional[str | None] = Field(None, description="File to write, if two files are joined.")
    word: str | None = Field(None, description="The word to take out of a file that holds several.")
    to: str | None = Field(None, description="Layout, if OUT does not say it: safetensors, pt, ckpt, bin, png.")
    token: str | None = Field(None, description="Another name for the word (default: the file's).")
    vectors: int | None = Field(
        None, ge=1, description="So many vectors: the first ones, or all of them again in turn until there are as many."
    )
    picture: Path | None = Field(None, description="Picture for a .png card.")
    overwrite: bool = Field(False, description="Replace OUT if it is there.")

    @property
    def files(self) -> list[Path]:
        return [Path(self.first), *([Path(self.second)] if self.third is not None else [])]

    @property
    def out(self) -> str:
        return self.second if self.third is None else self.third


def main(argv: list[str], prog: str) -> int:
    flags = parse_flags(ConvertFlags, argv, prog, DESCRIPTION)
    from neonym.formats import check_writable, with_vectors, write_embedding

    words = words_asked_for(flags)
    if flags.token is not None:
        words = [replace(word, token=flags.token, metadata=renamed(word.metadata, flags.token)) for word in words]
    if flags.vectors is not None:
        words = [with_vectors(word, flags.vectors) for word in words]
    files = targets(flags, words)
    picture = card_picture(flags, files)
    for word, file in zip(words, files, strict=True):
        check_writable(word, file)
    for word, file in zip(words, files, strict=True):
        write_embedding(word, file, picture)
        say(word, file)
    return 0


def words_asked_for(flags: ConvertFlags) -> list[Embedding]:
    """Every word of the file, the one of --word, or the one of which two files have a part each. Raises FormatError."""
    from neonym.formats import join, one_word, read_words

    read = [read_words(file)[0] for file in flags.files]
    if flags.word is None and len(read) == 1:
        return read[0]
    found = [one_word(words, file, flags.word) for words, file in zip(read, flags.files, strict=True)]
    return found if len(found) == 1 else [join(list(zip(found, flags.files, strict=True)), flags.token)]


def renamed(metadata: dict[str, str], token: str) -> dict[str, str]:
    """What other programs are told to write in prompts follows the word."""
    return {name: token if name == "modelspec.trigger_phrase" else text for name, text in metadata.items()}


def targets(flags: ConvertFlags, words: list[Embedding]) -> list[Path]:
    """A file for each word. Raises ConfigError with everything that is wrong with them."""
    from neonym.cli.names import file_stem
    from neonym.formats import FORMATS
    from neonym.formats.content import ending_of

    out, found = Path(flags.out), list[Problem]()
    if flags.to is not None and flags.to not in FORMATS:
        found.append(Problem("error", f"`{flags.to}` is no known layout", "--to", f"Known: {', '.join(FORMATS)}"))
    if flags.token is not None and (not flags.token.strip() or len(words) > 1):
        what = f"there are {len(words)} words in the file" if len(words) > 1 else "the word has no name"
        found.append(Problem("error", what, "--token", "Leave it out"))
    if out.is_dir() or flags.out.endswith(("/", "\\")) or len(words) > 1:
        own = ending_of(flags.files[0])
        ending = flags.to or (own if own in FORMATS else "safetensors")
        files = [out / f"{file_stem(word.token)}.{ending}" for word in words]
        if len(words) > 1 and ending_of(out) in FORMATS and not out.is_dir():
            fix = "Name a folder, with --to for the layout of the files in it, or choose one with --word"
            found.append(Problem("error", f"is the name of one file, for {len(words)} words", str(out), fix))
        elif out.is_file():
            found.append(Problem("error", f"is a file, for {len(words)} words", str(out), "Name a folder"))
    elif flags.to is not None and ending_of(out) not in FORMATS:
        files = [out.with_name(f"{out.name}.{flags.to}")]
    else:
        files = [out]
        if flags.to is not None and ending_of(out) != flags.to:
            found.append(Problem("error", f"has another ending than --to={flags.to}", str(out), "Leave --to out"))
    for file in dict.fromkeys(files):
        if files.count(file) > 1:
            fix = "Take the words out one by one: --word"
            found.append(Problem("error", f"would be the file of {files.count(file)} words", str(file), fix))
        if file.exists() and not flags.overwrite:
            found.append(Problem("error", "is there already", str(file), "Choose another name, or add --overwrite"))
    if found:
        raise ConfigError(found)
    return files


def card_picture(flags: ConvertFlags, files: list[Path]) -> Image | None:
    """The picture of --picture on white, None without one. Raises FormatError, DataError."""
    if flags.picture is None:
        return None
    if any(file.suffix.lower() != ".png" for file in files):
        raise FormatError(
            "only a .png card carries a picture", f"--picture {flags.picture}", "Leave it out, or add --to png"
        )
    from neonym.data.colour import on_background
    from neonym.data.images import readable

    with readable(flags.picture) as picture:
        return on_background(picture, (255, 255, 255))


def say(word: Embedding, file: Path) -> None:
    """What was written, and what it cannot be used for."""
    from neonym.cli.names import shown
    from neonym.formats import left_out
    from neonym.formats.usage import warnings_of

    shapes = ", ".join(f"{name} {tuple(rows.shape)}" for name, rows in word.vectors.items())
    print(f"{file}: `{shown(word.token)}`, {shapes}")
    if word.left_out:
        print(f"note: {shown(left_out(word))}")
    for warning in warnings_of(file.stem, len(next(iter(word.vectors.values())))):
        print(f"note: {warning}")
