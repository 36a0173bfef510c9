"""Small ICC profiles, built after the ICC specification, so that tests know what each colour becomes."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))  # x and y of red, green and blue
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
D50, D65 = np.array([0.9642, 1.0, 0.8249]), (0.3127, 0.3290)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def number(value: float) -> bytes:
    """Return a number in the format s15Fixed16."""
    return struct.pack(">i", round(value * 65536))


def xyz(values) -> bytes:
    """Return a tag of the type XYZ."""
    return b"XYZ " + bytes(4) + b"".join(map(number, values))


def gamma(exponent: float) -> bytes:
    """Return a curve tag with a single exponent."""
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256))


def srgb_curve(points: int = 1024) -> bytes:
    """Return a curve tag with samples of the sRGB curve."""
    x = np.linspace(0, 1, points)
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return b"curv" + bytes(4) + struct.pack(">I", points) + np.round(linear * 65535).astype(">u2").tobytes()


def profile(space: bytes, connection: bytes, kind: bytes, tags: dict[str, bytes]) -> bytes:
    """Return a profile: a header, a table of tags, the tags."""
    name = b"test\0"
    described = b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78)
    tags = {"desc": described, "cprt": b"text" + bytes(4) + b"none\0", "wtpt": xyz(D50), **tags}
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for key, tag in tags.items():
        tag += bytes(-len(tag) % 4)
        table += struct.pack(">4sII", key.encode(), start + len(body), len(tag))
        body += tag
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"none", 0x02100000, kind, space, connection)
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + b"".join(map(number, D50))
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


def rgb(primaries=ADOBE, curve: bytes | None = None) -> bytes:
    """Return the profile of a display with these primaries; the default is nearly Adobe RGB (1998)."""
    curve = curve or gamma(2.2)
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([D65[0] / D65[1], 1, (1 - D65[0] - D65[1]) / D65[1]])
    adapted = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ white)) @ BRADFORD
    matrix = adapted @ (columns * np.linalg.solve(columns, white))
    colours = {f"{c}XYZ": xyz(matrix[:, i]) for i, c in enumerate("rgb")}
    return profile(b"RGB ", b"XYZ ", b"mntr", {**colours, **{f"{c}TRC": curve for c in "rgb"}})


def grey(curve: bytes) -> bytes:
    """Return the profile of a grey device with this curve."""
    return profile(b"GRAY", b"XYZ ", b"mntr", {"kTRC": curve})


def cmyk() -> bytes:
    """Return the profile of idealised inks: each removes its complement, and black half of the light."""
    side = np.linspace(0, 1, 5)
    cyan, magenta, yellow, black = np.meshgrid(side, side, side, side, indexing="ij")
    light = np.stack([(1 - ink) * (1 - black / 2) for ink in (cyan, magenta, yellow)], -1).reshape(1, -1, 3)
    shown = Image.fromarray(np.round(light * 255).astype(np.uint8))
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = np.asarray(to_lab.apply(shown)).reshape(-1, 3) ^ np.array([0, 128, 128], np.uint8)  # a and b from 0 on
    same = bytes(range(256))
    matrix = b"".join(map(number, np.eye(3).flatten()))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 5, 0]) + matrix + same * 4 + lab.tobytes() + same * 3
    return profile(b"CMYK", b"Lab ", b"prtr", {"A2B0": lut})


def srgb_of(colour, described: bytes, mode: str = "RGB") -> tuple[int, ...]:
    """Return the sRGB value of one colour as LittleCMS converts it."""
    source = ImageCms.ImageCmsProfile(BytesIO(described))
    made = ImageCms.profileToProfile(
        Image.new(mode, (1, 1), colour), source, ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    return made.getpixel((0, 0))
