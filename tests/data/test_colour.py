"""Verify the colours of every kind of image: profiles, bit depths, palettes, transparency."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from neonym.data.colour import on_background
from neonym.data.images import inspect_image, load_mask, load_pixels, still_view
from neonym.data.sdscripts_latents import read_latents
from neonym.types import Fit, View
from support import WORD
from support.checks import check, check_table, said
from support.colour_profiles import ADOBE, SRGB, cmyk, gamma, grey, rgb, srgb_curve, srgb_of
from support.data_sets import make_images

COLOUR = (119, 200, 59)
SIZE = (16, 16)
WHOLE = View(Fit(SIZE, SIZE, (0, 0, *SIZE)))


def levels(path) -> tuple[int, ...]:
    """Return the first pixel that the VAE would get, from 0 to 255."""
    return tuple(np.rint((load_pixels(path, WHOLE)[:, 0, 0] + 1) * 127.5).astype(int).tolist())


def saved(tmp_path, kind: str, image: Image.Image, **how):
    path = tmp_path / f"x.{kind.lower()}.png"  # the ending does not matter
    image.save(path, kind, **how)
    return path


def near(found, wanted, by=2) -> bool:
    return all(abs(a - b) <= by for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_profile_decides_the_colours(tmp_path, kind):
    how = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind in ("JPEG", "AVIF") else {}
    path = saved(tmp_path, kind, Image.new("RGB", SIZE, COLOUR), icc_profile=rgb(), **how)
    wanted = srgb_of(COLOUR, rgb())
    assert near(wanted, (47, 200, 40), 6)  # as published for Adobe RGB (1998)
    assert near(levels(path), wanted)
    assert inspect_image(path).remarks == ()


@pytest.mark.parametrize(
    ("described", "changes"),
    [
        (rgb(SRGB, srgb_curve()), False), (rgb(SRGB, srgb_curve(256)), False), (rgb(SRGB), True), (rgb(ADOBE), True),
        (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), False),
    ],
)  # fmt: skip
def test_an_srgb_profile_changes_no_bit(described, changes):
    numbers = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    for mode in ("RGB", "RGBA", "L"):
        image = Image.fromarray(numbers).convert(mode)
        plain = on_background(image, (10, 20, 30))
        image.info["icc_profile"] = described
        assert (on_background(image, (10, 20, 30)).tobytes() != plain.tobytes()) == changes


def test_profiles_of_grey_and_cmyk_images(tmp_path):
    for described, value in (
        (grey(gamma(1.8)), 100),
        (rgb(curve=gamma(1.8)), 100),
    ):  # RGB profiles stand in grey files too
        path = saved(tmp_path, "PNG", Image.new("L", SIZE, value), icc_profile=described)
        wanted = srgb_of(value, described, "L") if described[16:20] == b"GRAY" else srgb_of((value,) * 3, described)
        assert levels(path) == wanted != (value,) * 3
    assert levels(saved(tmp_path, "PNG", Image.new("L", SIZE, 100), icc_profile=grey(srgb_curve()))) == (100, 100, 100)
    ink = (0, 255, 255, 128)
    image = Image.new("CMYK", SIZE, ink)
    for kind, how in (("JPEG", {"quality": 100}), ("TIFF", {})):
        assert near(levels(saved(tmp_path, kind, image, icc_profile=cmyk(), **how)), srgb_of(ink, cmyk(), "CMYK"))
        assert near(levels(saved(tmp_path, kind, image, **how)), image.convert("RGB").getpixel((0, 0)))
    assert srgb_of(ink, cmyk(), "CMYK")[0] > image.convert("RGB").getpixel((0, 0))[0] + 30  # black takes half


def test_opacity_is_not_converted(tmp_path):
    image = Image.new("RGBA", SIZE, (*COLOUR, 128))
    shown = on_background(Image.new("RGBA", SIZE, (*srgb_of(COLOUR, rgb()), 128)), (255, 255, 255)).getpixel((0, 0))
    assert levels(saved(tmp_path, "PNG", image, icc_profile=rgb())) == shown
    palette = Image.new("RGB", SIZE, COLOUR).quantize(4)
    assert levels(saved(tmp_path, "PNG", palette, icc_profile=rgb())) == srgb_of(COLOUR, rgb())
    assert levels(saved(tmp_path, "PNG", palette, icc_profile=rgb(), transparency=bytes([128] * 4))) == shown
    clear = Image.new("LA", SIZE, (100, 0))
    assert levels(saved(tmp_path, "PNG", clear, icc_profile=grey(gamma(1.8)))) == (255, 255, 255)


def test_masks_are_not_converted(tmp_path):
    folder, masks = make_images(tmp_path / "a", 2), tmp_path / "masks"
    masks.mkdir()
    for name in ("00.png", "01.png"):
        Image.new("RGB", (128, 128), COLOUR).save(masks / name, icc_profile=rgb() if name == "00.png" else b"junk")
    subsets = [{"image_dir": str(folder), "conditioning_data_dir": str(masks)}]
    ready = check_table(tmp_path, {"datasets": [{"subsets": subsets}]}, masked_loss=True)
    assert not ready.failed()
    assert "profile" not in said(ready, "warning")
    assert {float(load_mask(r, still_view(r))[0, 0]) for r in ready.records} == {np.float32(COLOUR[0] / 255)}


def test_unusable_profiles_are_reported_once(tmp_path):
    folder = make_images(tmp_path / "a", 7)
    for number, described in enumerate((b"junk", rgb()[:200], rgb()[:300], cmyk(), grey(gamma(2.2)), rgb())):
        with Image.open(folder / f"{number:02}.png") as image:
            image.load()
            before = levels(saved(tmp_path, "PNG", image.resize(SIZE)))
            image.save(folder / f"{number:02}.png", icc_profile=described)
            after = levels(saved(tmp_path, "PNG", image.resize(SIZE), icc_profile=described))
        assert (after == before) == (number < 5)
    for _ in range(2):  # the second time from the index
        ready = check(folder)
        assert not ready.failed()
        (problem,) = [p for p in ready.problems if "profile" in p.what]
        assert problem.severity == "warning"
        assert "5 images with a colour profile that cannot be used" in problem.what
        assert "00.png, 01.png, 02.png, ..." in problem.what


def test_an_incomplete_profile(tmp_path):
    """The profile is longer than one segment of a JPEG, and one segment is missing."""
    out = io.BytesIO()
    Image.new("RGB", SIZE, COLOUR).save(out, "JPEG", quality=100, icc_profile=rgb() + bytes(100_000))
    data = out.getvalue()
    second = data.index(b"ICC_PROFILE", data.index(b"ICC_PROFILE") + 1) - 4
    length = struct.unpack(">H", data[second + 2 : second + 4])[0]
    (tmp_path / "a.jpg").write_bytes(data[:second] + data[second + 2 + length :])
    ((kind, _),) = inspect_image(tmp_path / "a.jpg").remarks
    assert kind == "profile"
    assert near(levels(tmp_path / "a.jpg"), COLOUR)


def test_latents_of_sd_scripts_are_refused_for_images_with_profiles(tmp_path):
    folder = make_images(tmp_path / "a", 1)
    (record,) = check(folder).records
    assert read_latents(record, still_view(record), "sd1", 4, 8) == "there is no file"
    with Image.open(record.path) as image:
        image.load()
    image.save(record.path, icc_profile=rgb())
    assert "colour profile" in str(read_latents(record, still_view(record), "sd1", 4, 8))


def png(depth: int, colour: int, row: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of 2 x 1 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0))
    body = b"".join(chunk(*c) for c in (*chunks, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")))
    return b"\x89PNG\r\n\x1a\n" + head + body


@pytest.mark.parametrize(
    ("data", "first", "second"),
    [
        (png(16, 0, struct.pack(">2H", 65535, 25700)), (255,) * 3, (100,) * 3),
        (png(16, 0, struct.pack(">2H", 65535, 25700), (b"tRNS", struct.pack(">H", 25700))), (255,) * 3, (0, 0, 9)),
        (png(16, 2, struct.pack(">6H", 65535, 0, 0, 25700, 0, 65535)), (255, 0, 0), (100, 0, 255)),
        (png(16, 4, struct.pack(">4H", 25700, 65535, 25700, 0)), (100,) * 3, (0, 0, 9)),
        (png(1, 0, b"\x40"), (0,) * 3, (255,) * 3),
        (png(1, 0, b"\x40", (b"tRNS", b"\0\1")), (0,) * 3, (0, 0, 9)),
        (png(8, 3, b"\0\1", (b"PLTE", bytes([200, 0, 0, 0, 200, 0])), (b"tRNS", b"\0")), (0, 0, 9), (0, 200, 0)),
        (png(8, 3, b"\0\1", (b"PLTE", bytes([200, 0, 0, 0, 200, 0])), (b"tRNS", b"\x80\x40")), (100, 0, 4), (0, 50, 7)),
        (png(8, 4, bytes([100, 255, 100, 0])), (100,) * 3, (0, 0, 9)),
    ],
)  # fmt: skip
def test_depths_palettes_and_transparency(data, first, second):
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        shown = on_background(image, (0, 0, 9))
    assert near(shown.getpixel((0, 0)), first, 1)
    assert near(shown.getpixel((1, 0)), second, 1)


def test_floating_point_values_and_other_colour_spaces():
    for top, scale in ((1, 1), (255, 255), (65535, 65535)):
        image = Image.fromarray(np.array([[0, 0.5 * scale, top, np.nan]], np.float32))
        assert [on_background(image, (9, 9, 9)).getpixel((x, 0))[0] for x in range(4)] == [0, 128, 255, 0]
    lab = ImageCms.profileToProfile(
        Image.new("RGB", (1, 1), COLOUR),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    lab.info.clear()
    assert near(on_background(lab, (0, 0, 0)).getpixel((0, 0)), COLOUR, 3)
    for mode in ("La", "RGBa"):
        clear = Image.new("LA" if mode == "La" else "RGBA", (1, 1), 0).convert(mode)
        assert on_background(clear, (1, 2, 3)).getpixel((0, 0)) == (1, 2, 3)


def test_training_uses_converted_colours(tmp_path):
    """The image is read through a dataset, as in training."""
    folder = make_images(tmp_path / "a", 1)
    Image.new("RGB", (128, 128), COLOUR).save(folder / "00.png", icc_profile=rgb())
    (record,) = check(folder).records
    assert WORD in record.caption
    pixels = load_pixels(record.path, still_view(record))
    assert near(np.rint((pixels[:, 5, 5] + 1) * 127.5), srgb_of(COLOUR, rgb()), 1)
