"""Verify that images with complete pixels are used whatever else is damaged or odd, and refused otherwise."""

import io
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from neonym.data.images import inspect_image, load_pixels
from neonym.data.library_warnings import pillow_warnings
from neonym.data.repair import repaired
from neonym.errors import DataError
from neonym.types import Fit, View
from support import WORD
from support.checks import check, said
from support.data_sets import make_images

SIZE = (40, 30)
WHOLE = View(Fit(SIZE, SIZE, (0, 0, *SIZE)))
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8))
FRAMES = [Image.new("RGB", SIZE, colour) for colour in ("red", "blue")]
MOVING = {"save_all": True, "append_images": FRAMES[1:]}


def packed(kind: str, image: Image.Image = NOISE, **how) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


def text(size: int, **how) -> bytes:
    """Return a PNG with a text of `size` letters."""
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * size, **how)
    return packed("PNG", pnginfo=info)


def changed(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def interlaced(rows_missing: int = 0, adler: bool = True) -> bytes:
    """Return a PNG of 8 x 8 grey pixels in Adam7's seven passes, without its last rows."""
    rows = [
        b"\0" + bytes(n) for n, count in ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4)) for _ in range(count)
    ]
    data = zlib.compress(b"".join(rows[: len(rows) - rows_missing]))
    head = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1)
    chunks = b"".join(
        struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b))
        for k, b in ((b"IHDR", head), (b"IDAT", data))
    )
    return b"\x89PNG\r\n\x1a\n" + (chunks if adler else chunks[:-6])


PNG, JPEG, SMOOTH, PROGRESSIVE = (
    packed("PNG"),
    packed("JPEG"),
    packed("JPEG", quality=95, subsampling=0),
    packed("JPEG", progressive=True),
)
EXIF = Image.Exif()
EXIF[0x010E] = "a text"
WEBP = packed("WEBP", lossless=True, exif=EXIF.tobytes())

USABLE = {
    "a text of 3 MB": text(3_000_000, zip=True), "a wrong checksum of a text": changed(text(9), PNG.index(b"IDAT") + 12),
    "no IEND": PNG[:-12], "no checksum": PNG[:-16], "no sum of pixels": PNG[:-20], "interlaced": interlaced(), "interlaced, no sum": interlaced(adler=False),
    "no EOI": JPEG[:-2], "half an EOI": JPEG[:-1], "no EOI, progressive": PROGRESSIVE[:-2], "WebP without its EXIF": WEBP[: WEBP.index(b"EXIF")],
    "WebP with half its EXIF": WEBP[:-6],
}  # fmt: skip
REFUSED = {
    "nothing": b"", "text": b"hello", "half a PNG": PNG[: len(PNG) // 2], "nearly a PNG": PNG[:-24], "changed pixels": changed(PNG, PNG.index(b"IDAT") + 99),
    "a changed size": changed(PNG, 19), "half a JPEG": JPEG[: len(JPEG) // 2], "nearly a JPEG": JPEG[:-5],
    "nearly a JPEG, progressive": PROGRESSIVE[:-6], "half of it": PROGRESSIVE[: len(PROGRESSIVE) // 2], "a JPEG's head": JPEG[:300], "nearly, in full colour": SMOOTH[:-4],
    "half a WebP": WEBP[: len(WEBP) // 2], "nearly a WebP": WEBP[: WEBP.index(b"EXIF") - 3],
}  # fmt: skip


def whole_of(name: str) -> bytes:
    return next(
        (data for word, data in (("WebP", WEBP), ("progressive", PROGRESSIVE), ("EOI", JPEG)) if word in name), PNG
    )


@pytest.mark.parametrize("name", USABLE)
def test_damage_outside_the_pixels_is_repaired(tmp_path, name):
    path, whole = tmp_path / "x.png", tmp_path / "whole.png"
    path.write_bytes(USABLE[name])
    size, content, remarks = inspect_image(path)
    assert content != inspect_image(path.with_name("x.png"))[0]
    assert [r.kind for r in remarks] == ["mended"]
    if "interlaced" not in name:
        whole.write_bytes(whole_of(name))
        assert size == inspect_image(whole).size
        assert (load_pixels(path, WHOLE) == load_pixels(whole, WHOLE)).all()
    else:
        assert load_pixels(path, View(Fit((8, 8), (8, 8), (0, 0, 8, 8)))).max() == -1
    assert (ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK) == (False, 1 << 20)


@pytest.mark.parametrize("name", REFUSED)
def test_missing_or_damaged_pixels_are_refused(tmp_path, name):
    path = tmp_path / "x.png"
    path.write_bytes(REFUSED[name])
    assert repaired(REFUSED[name]) is None
    for read in (inspect_image, lambda p: load_pixels(p, WHOLE)):
        with pytest.raises(DataError, match=r"x\.png (is|cannot|has)"):
            read(path)


def test_rows_of_a_png_are_counted():
    assert repaired(interlaced()) is not None
    assert repaired(interlaced(1)) is None


def test_a_truncated_file_is_complete_or_refused(tmp_path):
    """Wherever a file is truncated, it is refused or has exactly the pixels of the whole."""
    path = tmp_path / "x"
    for data in (PNG, JPEG, SMOOTH, PROGRESSIVE, WEBP):
        path.write_bytes(data)
        wanted, used = load_pixels(path, WHOLE), 0
        for end in [*range(9, len(data), 97), *range(len(data) - 40, len(data))]:
            path.write_bytes(data[:end])
            try:
                inspect_image(path)
            except DataError:
                continue
            used += 1
            assert (load_pixels(path, WHOLE) == wanted).all(), end
        assert 1 <= used <= 40


def test_a_data_set_of_odd_files_is_used_with_notes(tmp_path):
    folder = make_images(tmp_path / "a", 2)
    files = {
        "text.png": USABLE["a text of 3 MB"], "end.jpg": JPEG[:-2], "jpeg.png": JPEG, "png.jpg": PNG, "gif.png": packed("GIF", FRAMES[0], **MOVING),
        "moving.webp": packed("WEBP", FRAMES[0], lossless=True, **MOVING), "moving.png": packed("PNG", FRAMES[0], **MOVING),
        "stereo.jpg": packed("MPO", FRAMES[0], **MOVING), "junk.png": PNG + b"junk", "junk.jpg": JPEG + b"junk", "empty.png": b"",
    }  # fmt: skip
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "folder.png").mkdir()
    for _ in range(2):  # the second time from the index
        ready = check(folder, caption_prefix=WORD, broken_images="skip")
        assert not ready.failed()
        assert len(ready.records) == 2 + len(files) - 1
        notes = said(ready, "note")
        assert "2 images with damage outside the pixels" in notes
        assert "(end.jpg, text.png)" in notes
        assert "3 images with several frames: only the first frame is used (gif.png, moving.png, moving.webp)" in notes
        assert "empty.png is an empty file" in said(ready, "warning")
        assert "folder.png is a folder" in said(ready, "warning")
    for name in ("gif.png", "moving.webp", "moving.png", "stereo.jpg"):
        assert abs(load_pixels(folder / name, WHOLE)[:, 9, 9] - [1, -1, -1]).max() < 0.05


def orientation(value: bytes, kind: int = 3, count: int = 1) -> bytes:
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4s", 0x0112, kind, count, value) + bytes(4)


@pytest.mark.parametrize(
    ("exif", "turned"),
    [
        (orientation(b"\6\0\0\0"), True), (orientation(b"\1\0\0\0"), False), (orientation(b"\0\0\0\0"), False), (orientation(b"\x09\0\0\0"), False),
        (orientation(b"six\0", 2, 4), False), (orientation(b"\xff\xff\xff\xff"), False), (orientation(b"\6\0\6\0", 3, 2), True), (orientation(b"\6\0\0\0")[:-9], False),
        (b"Exif\0\0", False), (b"Exif\0\0MM", False), (b"Exif\0\0XX*\0", False), (b"Exif\0\0II*\0\xff\xff\xff\xff", False), (b"Exif\0\0II*\0\x08\0\0\0\xff\xff", False),
    ],
)  # fmt: skip
def test_broken_exif_is_ignored(tmp_path, exif, turned):
    for kind in ("JPEG", "PNG", "WEBP"):
        (tmp_path / "x").write_bytes(packed(kind, exif=exif))
        wide = inspect_image(tmp_path / "x").size == SIZE
        assert wide != turned
        assert load_pixels(
            tmp_path / "x", WHOLE if wide else View(Fit(SIZE[::-1], SIZE[::-1], (0, 0, *SIZE[::-1])))
        ).shape


def test_every_orientation_agrees_with_pillow(tmp_path):
    from PIL import ImageOps

    for value in range(1, 9):
        (tmp_path / "x.png").write_bytes(packed("PNG", exif=orientation(bytes([value, 0, 0, 0]))))
        with Image.open(tmp_path / "x.png") as image:
            wanted = ImageOps.exif_transpose(image)
        assert inspect_image(tmp_path / "x.png").size == wanted.size
        view = View(Fit(wanted.size, wanted.size, (0, 0, *wanted.size)))
        found = (load_pixels(tmp_path / "x.png", view).transpose(1, 2, 0) + 1) * 127.5
        assert (np.rint(found) == np.asarray(wanted)).all()


def test_warnings_of_pillow_name_their_files(tmp_path):
    """A separate process is used, whose terminal would show other warnings."""
    folder = make_images(tmp_path / "a", 6)
    for name in ("01", "03", "04", "05"):
        with Image.open(folder / f"{name}.png") as image:
            image.save(folder / f"{name}.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + name.encode())
        (folder / f"{name}.png").unlink()
    command = [sys.executable, "-m", "neonym", "check", "--train_data_dir", str(folder), "--token_string", WORD]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    out = ran.stdout + ran.stderr
    assert ran.returncode == 0, out
    assert "Warning:" not in out
    assert "4 images used despite a warning of the image library (01.jpg, 03.jpg, 04.jpg, ...: " in out
    load_pixels(folder / "01.jpg", WHOLE)  # in training, where it was said before; a warning would fail this test


def test_images_that_are_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)
    folder = make_images(tmp_path / "a", 1)
    Image.new("1", (2000, 1500)).save(folder / "large.png")
    Image.new("1", (2500, 2000)).save(folder / "bomb.png")
    ready = check(folder, caption_prefix=WORD, broken_images="skip")
    assert "bomb.png has more than 4 million pixels. Make it smaller" in said(ready, "warning")
    assert "1 image so large that reading them takes much time and memory (large.png)" in said(ready, "warning")


def test_warnings_go_to_the_thread_that_caused_them():
    heard, before = {}, (list(warnings.filters), warnings.showwarning)
    together = threading.Barrier(4)

    def read(number: int) -> None:
        with pillow_warnings() as said_here:
            together.wait()
            for _ in range(3):
                warnings.warn_explicit(str(number), UserWarning, "/x/PIL/Image.py", 1, "PIL.Image")
            together.wait()
            heard[number] = [str(w) for w in said_here]

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == {number: [str(number)] * 3 for number in range(4)}
    assert (list(warnings.filters), warnings.showwarning) == before
    with pillow_warnings() as said_here, pytest.raises(UserWarning, match="ours"):
        warnings.warn("ours", UserWarning, stacklevel=1)
    assert said_here == []
