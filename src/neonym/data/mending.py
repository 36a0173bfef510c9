"""The repair of files whose pixels are all there although something else is not: an end mark, a text, a checksum.

Pillow refuses them, or reads them only if it is set to read files whose pixels are missing too. So such a file is
written anew in memory, from the parts that decide its pixels; Pillow's global settings are left alone.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

from PIL import Image

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
END_OF_JPEG = b"\xff\xd9"
TAILS = (b"", bytes(64), b"\xa5" * 64, b"\x5a" * 64)  # bytes that missing pixels would be read from
NEEDED = (b"IHDR", b"PLTE", b"tRNS")  # must be whole
WISHED = (b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"eXIf")  # are left out if they are not
LARGEST_PROFILE = 1 << 20  # bytes; Pillow refuses a PNG with a larger one
LOST_PROFILE = b"lost\0\0"  # stands for a profile that cannot be used, so that it is reported
MOST_PACKED = 1040  # bytes in one: more than zlib can
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # channels of a PNG, by its colour type
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
FLAGS = {b"EXIF": 0x08, b"XMP ": 0x04}  # in the header of a WebP: what stands behind its pixels


def mended(data: bytes) -> bytes | None:
    """Return the bytes of an image that Pillow reads, with the same pixels; None if pixels are missing or damaged."""
    try:
        if data.startswith(PNG):
            return mended_png(data)
        if data.startswith(JPEG):
            return mended_jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return mended_webp(data)
    except (struct.error, IndexError, KeyError, zlib.error):
        pass
    return None


def mended_png(data: bytes) -> bytes | None:
    """Return a PNG without its texts and with an end mark; None if pixels are missing or damaged."""
    kept, packed = list[bytes](), list[bytes]()
    for kind, body, checksum in png_chunks(data):
        whole = checksum == zlib.crc32(kind + body)
        if kind == b"IDAT":
            packed.append(body)
            if not whole and checksum is not None:
                return None
        elif kind in NEEDED and not whole:
            return None
        elif whole and kind in (*NEEDED, *WISHED):
            kept.append(png_chunk(kind, LOST_PROFILE if kind == b"iCCP" and is_too_large(body) else body))
        if checksum is None or kind == b"IEND":
            break
    pixels = complete_pixels(kept[0][8:-4], b"".join(packed))
    if pixels is None:
        return None
    return b"".join((PNG, *kept, png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b"")))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, int | None]]:
    """Yield each chunk's kind, as much of its body as there is, and its checksum; None if the file ends before it."""
    at = len(PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body, end = data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        yield kind, body, int.from_bytes(end, "big") if len(end) == 4 else None
        at += 12 + length


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG: its length, kind, body and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def is_too_large(profile: bytes) -> bool:
    """Return whether a profile (name, 0, method, packed bytes) is so large that Pillow refuses the whole image."""
    opened = zlib.decompressobj()
    opened.decompress(profile[profile.index(b"\0") + 2 :], LARGEST_PROFILE)
    return bool(opened.unconsumed_tail)


def complete_pixels(header: bytes, packed: bytes) -> bytes | None:
    """Return the packed rows of a PNG with the end that they may lack; None if rows are missing."""
    wanted = packed_size(header)
    if wanted > len(packed) * MOST_PACKED:
        return None
    opened = zlib.decompressobj()
    rows = opened.decompress(packed, wanted)
    if len(rows) < wanted:
        return None
    return packed if opened.eof else zlib.compress(rows, 1)


def packed_size(header: bytes) -> int:
    """Return how many bytes the rows of a PNG have, each with the byte that names its filter."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits, size = depth * CHANNELS[colour], 0
    for left, top, across, down in PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            size += rows * (1 + (columns * bits + 7) // 8)
    return size


def mended_jpeg(data: bytes) -> bytes | None:
    """Return a JPEG with an end mark, or None if pixels are missing: then they depend on what is read after them."""
    data = data.rstrip(b"\xff")
    found = set[bytes]()
    for tail in TAILS:
        try:
            with Image.open(BytesIO(data + tail + END_OF_JPEG)) as image:
                found.add(image.tobytes())
        except Exception:  # Pillow may raise anything on a damaged file
            return None
        if len(found) > 1:
            return None
    return data + END_OF_JPEG


def mended_webp(data: bytes) -> bytes | None:
    """Return a WebP without incomplete chunks behind its pixels; None if another chunk is incomplete."""
    kept, at = dict[bytes, bytes](), 12
    while at + 8 <= len(data):
        kind, length = struct.unpack("<4sI", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if len(body) == length:
            kept[kind] = kept.get(kind, b"") + struct.pack("<4sI", kind, length) + body + b"\0" * (length % 2)
        elif kind not in FLAGS:
            return None
        at += 8 + length + length % 2
    if header := bytearray(kept.get(b"VP8X", b"")):
        header[8] &= ~sum(flag for kind, flag in FLAGS.items() if kind not in kept)
        kept[b"VP8X"] = bytes(header)
    content = b"WEBP" + b"".join(kept.values())
    return struct.pack("<4sI", b"RIFF", len(content)) + content
