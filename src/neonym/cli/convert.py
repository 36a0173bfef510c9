"""Run `neonym convert IN OUT`, which writes an embedding file in another layout or with another number of vectors.

`neonym convert A B OUT` joins the two files that diffusers' example writes for a model with two text encoders.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from pydantic import BaseModel, Field

from neonym.config.flags import parse_flags

if TYPE_CHECKING:
    from neonym.types import Embedding

DESCRIPTION = "Write an embedding file in another layout. The endings say which: .safetensors, .pt, .ckpt, .bin, .png."


class ConvertFlags(BaseModel):
    """The flags of conversion."""

    first: tyro.conf.Positional[str] = Field(description="Embedding file, of any program.")
    second: tyro.conf.Positional[str] = Field(
        description="File to write; or a folder, where each word of a file with several gets a file of its name. "
        "If a third one is named: another file, for the other text encoder of a model with two; both are joined."
    )
    third: tyro.conf.Positional[str | None] = Field(None, description="File to write, if two files are joined.")
    word: str | None = Field(None, description="The word to take out of a file that holds several.")
    to: str | None = Field(None, description="Layout, if OUT does not say it: safetensors, pt, ckpt, bin, png.")
    token: str | None = Field(None, description="Another name for the word (default: the file's).")
    vectors: int | None = Field(
        None, ge=1, description="So many vectors: the first ones, or all of them again in turn until there are as many."
    )
    picture: Path | None = Field(None, description="Image for a .png card.")
    overwrite: bool = Field(False, description="Replace OUT if it is there.")

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files that are read."""
        return (Path(self.first), *([Path(self.second)] if self.third is not None else []))

    @property
    def out(self) -> str:
        """Return the file or folder that is written."""
        return self.second if self.third is None else self.third


def main(argv: list[str], prog: str) -> int:
    """Write an embedding file in another layout, and print what was written."""
    flags = parse_flags(ConvertFlags, argv, prog, DESCRIPTION)
    from neonym.api.convert import Conversion, converted

    request = Conversion(
        files=flags.files,
        out=flags.out,
        word=flags.word,
        to=flags.to,
        token=flags.token,
        vectors=flags.vectors,
        picture=flags.picture,
        overwrite=flags.overwrite,
    )
    for word, file in converted(request):
        say(word, file)
    return 0


def say(word: Embedding, file: Path) -> None:
    """Print what was written, and what it cannot be used for."""
    from neonym.cli.names import shown
    from neonym.formats import left_out_note
    from neonym.formats.usage import warnings_of

    shapes = ", ".join(f"{name} {tuple(rows.shape)}" for name, rows in word.vectors.items())
    print(f"{file}: `{shown(word.token)}`, {shapes}")
    if word.left_out:
        print(f"note: {shown(left_out_note(word))}")
    for warning in warnings_of(file.stem, len(next(iter(word.vectors.values())))):
        print(f"note: {warning}")
