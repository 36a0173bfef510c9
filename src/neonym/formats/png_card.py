"""Read and write images that carry an embedding in a text chunk and in their pixels, as AUTOMATIC1111's web UI does.

For SDXL the web UI accepts only the two tensors, so the metadata of the word is where it does not look: in a separate
text chunk, and in the pixels after the compressed table.

The pixels survive programs that drop text chunks. The compressed table is in the low four bits of two blocks of pixels:
one on the left of the image (the low halves of the bytes) and one on the right (the high halves). A black column
separates each block from the image.
"""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, PngImagePlugin

from neonym.errors import FormatError
from neonym.formats.content import FileContent, ending_of
from neonym.formats.keys import PLAIN, file_tensors
from neonym.formats.layout import Layout, Target
from neonym.formats.tensors import OWN, own_metadata, parse_own_metadata, web_ui_table
from neonym.types import Embedding

CHUNK = "sd-ti-embedding"
LARGEST = 16 << 20  # bytes of the unpacked table: 75 vectors take two million
LARGEST_BLOCK = 1 << 23  # numbers in a block of pixels: the largest packed table takes fewer
FACTOR, INCREMENT = np.uint32(1664525), np.uint32(1013904223)  # of the linear congruential generator
IMAGES_BEGIN = (b"\x89PNG", b"RIFF", b"\xff\xd8\xff", b"\xff\x0a", b"\0\0\0\x0cJXL", b"GIF8", b"BM")
AVIF = (b"ftypavif", b"ftypavis", b"ftypmif1")
MOST_PIXELS = 1 << 25
SIDE = 512


def write(embedding: Embedding, target: Target) -> None:
    """Write a card with an image of the word, or a plain card that shows its name.

    The web UI registers the word under the name of the file.

    Raises FormatError if there are more vectors than can be read back.
    """
    table: dict[str, Any] = {
        key: {"TORCHTENSOR": rows.float().tolist()} for key, rows in file_tensors(embedding).items()
    }
    chunks, own, alone = PngImagePlugin.PngInfo(), own_metadata(embedding), table.get(PLAIN)
    if alone is None:
        chunks.add_text(OWN, base64.b64encode(own.encode()).decode())
    else:
        table = {**web_ui_table(embedding, alone), "name": target.name, OWN: own}
    text = json.dumps(table)
    if len(text) > LARGEST:
        raise FormatError(
            "there are more vectors than a card can hold", f"the card of `{embedding.token}`", "Use another layout"
        )
    chunks.add_text(CHUNK, base64.b64encode(text.encode()).decode())
    data = zlib.compress(text.encode(), 9) + (zlib.compress(own.encode(), 9) if alone is None else b"")
    picture = target.picture.convert("RGB") if target.picture else plain_card(embedding.token)
    with_data(picture, data).save(target.path, "PNG", pnginfo=chunks)


def plain_card(token: str) -> Image.Image:
    """Return a dark card that shows the name of the word."""
    card = Image.new("RGB", (SIDE, SIDE), (40, 44, 52))
    ImageDraw.Draw(card).text((24, SIDE // 2), token, fill=(230, 230, 230))
    return card


def with_data(image: Image.Image, data: bytes) -> Image.Image:
    """Return the image with the two blocks of pixels that hold `data` at its sides."""
    numbers = np.frombuffer(data, np.uint8)
    columns = -(-len(numbers) // (3 * image.height))
    padded = np.resize(numbers, columns * 3 * image.height).reshape(image.height, columns, 3)
    card = Image.new("RGB", (image.width + 2 * columns + 2, image.height))
    for half, left in ((padded & 15, 0), (padded >> 4, image.width + columns + 2)):
        visible = (half ^ mask(half.shape)) | 0x10  # never black, so that the black columns can be found
        card.paste(Image.fromarray(visible.astype(np.uint8)), (left, 0))
    card.paste(image, (columns + 1, 0))
    return card


def mask(shape: tuple[int, ...]) -> np.ndarray:
    """Return the pseudo-random low four bits with which the web UI masks a block of this shape.

    They are the states of a linear congruential generator that starts at 0. Its n-th state is the increment times the
    sum of the first n powers of the factor.
    """
    powers = np.full(int(np.prod(shape)), FACTOR, np.uint32)  # of the factor, modulo 2**32
    powers[:1] = 1
    states = INCREMENT * np.cumsum(np.cumprod(powers, dtype=np.uint32), dtype=np.uint32)
    return (states % 255).astype(np.uint8).reshape(shape) & 15


def read(path: Path) -> FileContent:
    """Return what a card holds in its text chunks, or else in its pixels. Raises FormatError if it has no embedding."""
    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise ValueError(f"{opened.width} x {opened.height} pixels are too many for a card")
            text = opened.info.get(CHUNK)
            pixels = np.asarray(opened.convert("RGB")) if not isinstance(text, str) else np.zeros((0, 0, 3))
            text, own = opened.info.get(CHUNK), opened.info.get(OWN)  # chunks after the pixels are known by now
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise FormatError(f"cannot be read as an image ({error})", str(path)) from error
    try:
        content, metadata = (decoded(text), decoded(own)) if isinstance(text, str) else from_pixels(pixels)
        if len(content) > LARGEST:
            raise ValueError("too large")
        table = json.loads(content, object_hook=revived)
    except (ValueError, TypeError, OverflowError, RecursionError, RuntimeError, zlib.error) as error:
        raise FormatError("is an image that carries no embedding", str(path)) from error
    if not isinstance(table, dict):
        raise FormatError("is an image that carries no embedding", str(path))
    return FileContent(ending_of(path), "picture", table, parse_own_metadata(metadata))


def decoded(text: object) -> bytes:
    """Return the bytes of a base64 string, or no bytes for any other value. Raises ValueError if it is not base64."""
    return base64.b64decode(text) if isinstance(text, str) else b""


def revived(table: dict[str, Any]) -> Any:
    """Return the tensor of a table with the key TORCHTENSOR, as the web UI writes it, or else the table unchanged."""
    return torch.tensor(table["TORCHTENSOR"], dtype=torch.float64) if "TORCHTENSOR" in table else table


def from_pixels(pixels: np.ndarray) -> tuple[bytes, bytes]:
    """Return the table in the blocks beside the black columns, and the data after its end.

    Raises ValueError or zlib.error if there is no table.
    """
    filled = np.argwhere(pixels.any(axis=(0, 2)))
    rows = np.argwhere(pixels.any(axis=(1, 2)))
    if not len(filled):
        raise ValueError("the image is black")
    pixels = pixels[rows.min() : rows.max() + 1, filled.min() : filled.max() + 1]
    black = np.flatnonzero(~(pixels & 15).any(axis=(0, 2)))
    if len(black) < 2:
        raise ValueError("there are no black columns")
    if pixels[:, : black.min()].size > LARGEST_BLOCK:
        raise ValueError("too large")
    low, high = pixels[:, : black.min()] & 15, pixels[:, black.max() + 1 :] & 15
    if low.shape != high.shape:
        raise ValueError("the blocks differ in size")
    data = ((high ^ mask(high.shape)) << 4 | (low ^ mask(low.shape))).astype(np.uint8)
    table, rest = unpacked(data.tobytes())
    try:
        after = unpacked(rest)[0]
    except (ValueError, zlib.error):
        after = b""
    return table, b"" if table.startswith(after) else after  # blocks are padded with the table itself


def unpacked(data: bytes) -> tuple[bytes, bytes]:
    """Return the first zlib stream of the data, unpacked, and the data after it.

    Raises ValueError if it is too large, zlib.error if it is damaged.
    """
    unpacker = zlib.decompressobj()
    table = unpacker.decompress(data, LARGEST)
    if unpacker.unconsumed_tail:
        raise ValueError("too large")
    return table, unpacker.unused_data


def begins(start: bytes) -> bool:
    """Return whether a file begins as an image that may be a card."""
    return start.startswith(IMAGES_BEGIN) or start[4:12] in AVIF


LAYOUTS = (
    Layout("image card", read, write, begins, ("png",)),
    Layout("image card in another format", read, extensions=("webp", "jxl", "avif")),
)
