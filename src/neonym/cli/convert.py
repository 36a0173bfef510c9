"""Run `neonym convert IN OUT`, which writes an embedding file in another layout or with another number of vectors.

`neonym convert A B OUT` joins the two files that diffusers' example writes for a model with two text encoders.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from pydantic import BaseModel, Field

from neonym.config.flags import parse_flags

if TYPE_CHECKING:
    from neonym.types import Embedding

DESCRIPTION = (
    "Write an embedding file in another layout, which the extension names: .safetensors, .pt, .ckpt, .bin or .png."
)


class ConvertFlags(BaseModel):
    """The flags of conversion."""

    first: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")] = Field(
        description="Embedding file of any program."
    )
    second: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")] = Field(
        description="File to write, or a folder for the words of a file that holds several, each written under its own name. "
        "With a third argument: the file for the model's other text encoder, to be joined with the first one."
    )
    third: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[JOINED]")] = Field(
        None, description="File to write when two files are joined."
    )
    word: str | None = Field(None, description="Word to convert, if the file holds several.")
    to: str | None = Field(
        None, description="Layout, if the extension of OUT does not name it: safetensors, pt, ckpt, bin or png."
    )
    token: str | None = Field(None, description="New name for the word (default: its name in the file).")
    vectors: int | None = Field(
        None,
        ge=1,
        description="Number of vectors to write: keep the first ones, or repeat all in turn until there are enough.",
    )
    encoders: tuple[str, ...] = Field(
        (), description="Text encoders whose vectors are written, such as clip_l for a program that reads no others."
    )
    picture: Path | None = Field(None, description="Image for a .png card.")
    overwrite: bool = Field(False, description="Replace OUT if it exists.")

    @property
    def files(self) -> tuple[Path, ...]:
        """The files to read."""
        return (Path(self.first), *([Path(self.second)] if self.third is not None else []))

    @property
    def out(self) -> str:
        """The file or folder to write."""
        return self.second if self.third is None else self.third


def main(argv: list[str], prog: str) -> int:
    """Write an embedding file in another layout, and print what was written."""
    flags = parse_flags(ConvertFlags, argv, prog, DESCRIPTION)
    from neonym.api.convert import ConversionRequest, convert_words

    request = ConversionRequest(
        files=flags.files,
        out=flags.out,
        word=flags.word,
        to=flags.to,
        token=flags.token,
        vectors=flags.vectors,
        picture=flags.picture,
        overwrite=flags.overwrite,
        encoders=flags.encoders,
    )
    for word, file in convert_words(request):
        print_written(word, file)
    return 0


def print_written(word: Embedding, file: Path) -> None:
    """Print what was written, and notes about how it can be used."""
    from neonym.cli.terminal import printable
    from neonym.formats import left_out_note
    from neonym.formats.usage import warnings_of

    shapes = ", ".join(f"{name} {tuple(rows.shape)}" for name, rows in word.vectors.items())
    print(f"{file}: `{printable(word.token)}`, {shapes}")
    if word.left_out:
        print(f"note: {printable(left_out_note(word))}")
    for warning in warnings_of(file.stem, len(next(iter(word.vectors.values())))):
        print(f"note: {warning}")
