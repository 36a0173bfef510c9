"""Repair image files whose pixels are complete but that are otherwise damaged: an end marker, a text, a checksum.

Pillow refuses such files, or reads them only with a setting that also accepts missing pixels. Therefore a file is
rebuilt in memory from the parts that determine its pixels, and Pillow's global settings are not changed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

from PIL import Image

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
END_OF_JPEG = b"\xff\xd9"
TAILS = (b"", bytes(64), b"\xa5" * 64, b"\x5a" * 64)  # bytes that a decoder would read in place of missing pixels
REQUIRED = (b"IHDR", b"PLTE", b"tRNS")  # chunks that must be intact
OPTIONAL = (b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"eXIf")  # chunks that are left out if damaged
LARGEST_PROFILE = 1 << 20  # bytes; Pillow refuses a PNG with a larger one
LOST_PROFILE = b"lost\0\0"  # replaces a profile that cannot be used, so that it is reported
MOST_PACKED = 1040  # unpacked bytes per packed byte, more than zlib achieves
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type of a PNG -> channels
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
FLAGS = {b"EXIF": 0x08, b"XMP ": 0x04}  # flags in the header of a WebP for the chunks after its pixels


def repaired(data: bytes) -> bytes | None:
    """Return an image file with the same pixels that Pillow reads, or None if pixels are missing or damaged."""
    try:
        if data.startswith(PNG):
            return repaired_png(data)
        if data.startswith(JPEG):
            return repaired_jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return repaired_webp(data)
    except (struct.error, IndexError, KeyError, zlib.error):
        pass
    return None


def repaired_png(data: bytes) -> bytes | None:
    """Return a PNG without its texts and with an end marker, or None if pixels are missing or damaged."""
    kept, packed = list[bytes](), list[bytes]()
    for kind, body, checksum in png_chunks(data):
        intact = checksum == zlib.crc32(kind + body)
        if kind == b"IDAT":
            packed.append(body)
            if not intact and checksum is not None:
                return None
        elif kind in REQUIRED and not intact:
            return None
        elif intact and kind in (*REQUIRED, *OPTIONAL):
            kept.append(png_chunk(kind, LOST_PROFILE if kind == b"iCCP" and is_too_large(body) else body))
        if checksum is None or kind == b"IEND":
            break
    pixels = complete_pixels(kept[0][8:-4], b"".join(packed))
    if pixels is None:
        return None
    return b"".join((PNG, *kept, png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b"")))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, int | None]]:
    """Yield the type, the body (as much as there is) and the checksum (None if missing) of each chunk."""
    at = len(PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body, end = data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        yield kind, body, int.from_bytes(end, "big") if len(end) == 4 else None
        at += 12 + length


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG: length, type, body, checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def is_too_large(profile: bytes) -> bool:
    """Return whether a profile (name, 0, method, packed bytes) is so large that Pillow refuses the image."""
    opened = zlib.decompressobj()
    opened.decompress(profile[profile.index(b"\0") + 2 :], LARGEST_PROFILE)
    return bool(opened.unconsumed_tail)


def complete_pixels(header: bytes, packed: bytes) -> bytes | None:
    """Return the packed rows of a PNG, with their end restored if it is missing, or None if rows are missing."""
    wanted = unpacked_size(header)
    if wanted > len(packed) * MOST_PACKED:
        return None
    opened = zlib.decompressobj()
    rows = opened.decompress(packed, wanted)
    if len(rows) < wanted:
        return None
    return packed if opened.eof else zlib.compress(rows, 1)


def unpacked_size(header: bytes) -> int:
    """Return the number of bytes in the unpacked rows of a PNG, including the filter byte of each."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits, size = depth * CHANNELS[colour], 0
    for left, top, across, down in PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            size += rows * (1 + (columns * bits + 7) // 8)
    return size


def repaired_jpeg(data: bytes) -> bytes | None:
    """Return a JPEG with an end marker, or None if pixels are missing: they then depend on the bytes that follow."""
    data = data.rstrip(b"\xff")
    found = set[bytes]()
    for tail in TAILS:
        try:
            with Image.open(BytesIO(data + tail + END_OF_JPEG)) as image:
                found.add(image.tobytes())
        except Exception:  # damaged files can fail in any way
            return None
        if len(found) > 1:
            return None
    return data + END_OF_JPEG


def repaired_webp(data: bytes) -> bytes | None:
    """Return a WebP without incomplete chunks after its pixels, or None if another chunk is incomplete."""
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
