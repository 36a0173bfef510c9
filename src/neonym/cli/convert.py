"""`neonym convert IN OUT`: an embedding file in another layout, without loss, or with another number of vectors."""

from __future__ import annotations

from pathlib import Path

import tyro
from pydantic import BaseModel, Field

from neonym.config.flags import parse_flags
from neonym.errors import FormatError

DESCRIPTION = "Write an embedding file in another layout. The endings say which: .safetensors, .pt, .ckpt, .bin, .png."


class ConvertFlags(BaseModel):
    """The flags of conversion."""

    file: tyro.conf.Positional[Path] = Field(description="Embedding file, of any program.")
    out: tyro.conf.Positional[Path] = Field(description="File to write, or a folder.")
    to: str | None = Field(None, description="Layout, if OUT is a folder: safetensors, pt, ckpt, bin, png.")
    token: str | None = Field(None, description="Another name for the word (default: the file's).")
    vectors: int | None = Field(
        None, ge=1, description="So many vectors: the first ones, or all of them again in turn until there are as many."
    )
    picture: Path | None = Field(None, description="Picture for a .png card.")
    overwrite: bool = Field(False, description="Replace OUT if it is there.")


def main(argv: list[str], prog: str) -> int:
    flags = parse_flags(ConvertFlags, argv, prog, DESCRIPTION)
    from neonym.formats import FORMATS, name_warnings, read_embedding, with_vectors, write_embedding
    from neonym.types import Embedding

    embedding = read_embedding(flags.file)
    embedding = Embedding(flags.token or embedding.token, embedding.vectors, embedding.metadata)
    if flags.vectors is not None:
        embedding = with_vectors(embedding, flags.vectors)
    out = flags.out
    if flags.to is not None and flags.to not in FORMATS:
        raise FormatError(f"`{flags.to}` is no known layout", "--to", f"Known: {', '.join(FORMATS)}")
    if out.is_dir():
        out = out / f"{embedding.token}.{flags.to or flags.file.suffix.removeprefix('.')}"
    elif flags.to is not None and out.suffix != f".{flags.to}":
        raise FormatError(f"has another ending than --to={flags.to}", str(out), "Leave --to out")
    if out.exists() and not flags.overwrite:
        raise FormatError("is there already", str(out), "Choose another name, or add --overwrite")
    if flags.picture is not None and out.suffix == ".png":
        from neonym.data.images import on_background, readable

        with readable(flags.picture) as picture:
            write_embedding(embedding, out, on_background(picture, (255, 255, 255)))
    else:
        write_embedding(embedding, out)
    shapes = ", ".join(f"{name} {tuple(rows.shape)}" for name, rows in embedding.vectors.items())
    print(f"{out}: `{embedding.token}`, {shapes}")
    for warning in name_warnings(out.stem, len(next(iter(embedding.vectors.values())))):
        print(f"note: {warning}")
    return 0
