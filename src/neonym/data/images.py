"""Read images and masks: orientation, transparency, resizing and cropping, colour augmentation."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from neonym.data.colour import on_background, profile_fault
from neonym.data.library_warnings import pillow_warnings
from neonym.data.remarks import ANIMATED, HUGE, PROFILE, REPAIRED, WARNED, Remark
from neonym.data.repair import repaired
from neonym.errors import DataError
from neonym.types import Fit, ImageRecord, Size, View

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
if features.check("avif"):
    ENDINGS.add(".avif")
try:
    import pillow_jxl as _  # pyright: ignore[reportMissingImports] # noqa: F401

    ENDINGS.add(".jxl")
except ImportError:
    pass
NOT_READ = {".gif", ".tif", ".tiff", ".heic", ".heif", ".jfif", ".jp2", ".psd", ".svg", ".avif", ".jxl"} - ENDINGS
ORIENTATION = 0x0112  # EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
TURNING = (b"eXIf", b"Raw profile type", b"tiff:Orientation")  # where a PNG may have its orientation
# The exceptions of Pillow for damaged files
UNREADABLE = (
    OSError, ValueError, SyntaxError, EOFError, ArithmeticError, LookupError, TypeError, AttributeError, RuntimeError,
    struct.error, zlib.error,
)  # fmt: skip
FILTERS = {
    "lanczos": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR,
    "linear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "cubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX, "box": Image.Resampling.BOX,
}  # fmt: skip
WASTEFUL = 8  # an image resized to more than this multiple of its bucket's area is cropped before it is resized
HUE_SHIFT = 8 / 180  # of the colour circle, in either direction
GAMMA = (0.95, 1.05)
COLOUR_SHARE = 0.33  # share of draws with a colour change
SHAKEN_FACE = 40  # pixels: larger faces are moved slightly from the centre
FLAT = 4  # of 256 levels: an image with smaller differences is of one colour


def find_images(folder: Path, complain: Callable[[str, Path], object] | None = None) -> list[Path]:
    """Return the images directly in `folder`, sorted by name, without hidden files and files with other extensions.

    Entries with an image's name that are not readable files are passed to `complain`, with the reason. Raises OSError if
    the folder cannot be read.
    """
    found, endings = [], tuple(ENDINGS)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.name.lower().endswith(endings):
                continue
            try:
                if entry.is_file():
                    found.append(entry.name)
                elif complain is not None:
                    what = "is a folder, not an image" if entry.is_dir() else "is a broken link, or not a file"
                    complain(what, folder / entry.name)
            except OSError as error:
                if complain is not None:
                    complain(f"cannot be reached ({error.strerror})", folder / entry.name)
    return [folder / name for name in sorted(found)]


class ImageFacts(NamedTuple):
    """The facts about a readable image."""

    size: Size  # after applying the EXIF orientation
    content: str  # SHA-256 of the file
    remarks: tuple[Remark, ...] = ()


@contextmanager
def readable(path: Path, small: Size | None = None) -> Iterator[Image.Image]:
    """Open an image with its pixels. A JPEG may be decoded at a smaller scale, but not below the size `small`.

    Raises DataError if it cannot be read. Pillow's warnings are dropped, because `inspect_image` has reported them.
    """
    with pillow_warnings():
        with named_errors(path, UNREADABLE):
            image = loaded_or_repaired(path, small)
        with image, named_errors(path, (OSError, ValueError, SyntaxError, EOFError)):
            yield image


@contextmanager
def named_errors(path: Path, kinds: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn exceptions from reading an image into a DataError that names the file."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise DataError("is not an image in a known format", str(path), "Remove or replace it") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise DataError(f"has more than {most} million pixels", str(path), "Make it smaller") from error
    except kinds as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot be read as an image ({reason})", str(path), "Remove or replace it") from error


def loaded_or_repaired(path: Path, small: Size | None) -> Image.Image:
    """Return an open image with its pixels. Damage outside the pixels is repaired in memory."""
    try:
        return loaded(path, small)
    except UNREADABLE:
        fixed = repaired(path.read_bytes())
        if fixed is None:
            raise
        return loaded(BytesIO(fixed), small)


def loaded(source: Path | BytesIO, small: Size | None) -> Image.Image:
    """Return an open image with its pixels."""
    image = Image.open(source)
    try:
        if small is not None:
            image.draft("RGB", small)
        image.load()
    except BaseException:
        image.close()
        raise
    return image


def inspect_image(path: Path) -> ImageFacts:
    """Return the facts about an image. Raises DataError if it cannot be read, or if pixels are missing or damaged."""
    try:
        data = path.read_bytes()
    except OSError as error:
        fix = "Check its name and permissions, or leave it out"
        raise DataError(f"cannot be read ({error.strerror})", str(path), fix) from error
    if not data:
        raise DataError("is an empty file, not an image", str(path), "Remove or replace it")
    with named_errors(path, UNREADABLE), pillow_warnings() as caught:
        try:
            size, remarks = examined(data)
        except UNREADABLE:
            fixed = repaired(data)
            if fixed is None:
                raise
            size, remarks = examined(fixed)
            remarks.append(Remark(REPAIRED))
    remarks += [
        Remark(HUGE)
        if isinstance(w, Image.DecompressionBombWarning)
        else Remark(WARNED, " ".join(str(w).split()).rstrip("."))
        for w in caught
    ]
    return ImageFacts(size, hashlib.sha256(data).hexdigest(), tuple(dict.fromkeys(remarks)))


def examined(data: bytes) -> tuple[Size, list[Remark]]:
    """Return an image's size as displayed, and remarks. Any exception of Pillow means that the file is damaged."""
    with Image.open(BytesIO(data)) as image:
        size, turned, remarks = image.size, False, []
        if getattr(image, "is_animated", False) and image.format != "MPO":
            remarks.append(Remark(ANIMATED))
        if fault := profile_fault(image):
            remarks.append(Remark(PROFILE, fault))
        if image.format == "PNG" and not any(mark in data for mark in TURNING):
            image.verify()  # checks all checksums without decoding
        else:
            turned = orientation(image) >= 5
            image.draft("RGB", (1, 1))  # decoding a JPEG at an eighth of its size shows whether it is complete
            image.load()
    return (size[1], size[0]) if turned else size, remarks


def orientation(image: Image.Image) -> int:
    """Return the orientation in the image's EXIF data, or 1 (upright) if it is missing or invalid."""
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF can fail in any way, but the pixels are complete
        return 1
    return found if isinstance(found, int) and found in TURNS else 1


def upright(image: Image.Image) -> Image.Image:
    """Return the image with its EXIF orientation applied."""
    turn = TURNS.get(orientation(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info = dict(image.info)
    return turned


def load_pixels(path: Path, view: View) -> np.ndarray:
    """Return the pixels of a view for the VAE, float32 [3,H,W] in -1..1. Raises DataError if they cannot be read."""
    with readable(path) as opened:
        image = fitted(on_background(upright(opened), view.background), view)
    pixels = np.asarray(changed_colour(image, view), np.float32)
    return pixels.transpose(2, 0, 1) / 127.5 - 1


def is_one_colour(pixels: np.ndarray) -> bool:
    """Return whether pixels [3,H,W] from -1 to 1 all have the same colour."""
    return float((pixels.max((1, 2)) - pixels.min((1, 2))).max()) < FLAT / 127.5


def load_mask(record: ImageRecord, view: View) -> np.ndarray:
    """Return the loss weight of each pixel, float32 [H,W] from 0 to 1: the red channel of the mask, or the opacity.

    Raises DataError if the file cannot be read.
    """
    with readable(record.mask or record.path) as opened:
        image = upright(opened)
        if record.mask is not None:
            channel = on_background(image, (0, 0, 0), managed=False).getchannel("R")
        else:
            channel = image.convert("RGBA").getchannel("A")
        return np.asarray(fitted(channel, view), np.float32) / 255


def fitted(image: Image.Image, view: View) -> Image.Image:
    """Return the image resized, cropped and mirrored as in the view."""
    fit, filter = view.fit, FILTERS[view.interpolation or "lanczos"]
    if image.size != fit.resized:
        across, down = image.width / fit.resized[0], image.height / fit.resized[1]
        gap = 3.0 if view.interpolation is None else None
        if fit.resized[0] * fit.resized[1] > WASTEFUL * fit.bucket[0] * fit.bucket[1]:
            box = tuple(side * scale for side, scale in zip(fit.crop, (across, down, across, down), strict=True))
            image = image.resize(fit.bucket, filter, box=box, reducing_gap=gap)  # pyright: ignore[reportArgumentType]
        else:
            image = image.resize(fit.resized, filter, reducing_gap=gap).crop(fit.crop)
    else:
        image = image.crop(fit.crop)
    return ImageOps.mirror(image) if view.flipped else image


def changed_colour(image: Image.Image, view: View) -> Image.Image:
    """Return the image with the hue shift and the gamma of the view."""
    if view.hue:
        hue, *rest = image.convert("HSV").split()
        turned = (np.asarray(hue, np.int16) + round(256 * view.hue)) % 256
        image = Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), *rest)).convert("RGB")
    if view.gamma != 1:
        curve = [round(255 * (value / 255) ** view.gamma) for value in range(256)]
        image = image.point(curve * 3)
    return image


def draw_view(record: ImageRecord, random: Random) -> View:
    """Return a random view of an image, within its augmentation rules."""
    rules, fit = record.image_rules, record.fit
    flipped = rules.flip and random.random() < 0.5
    face = face_of(record.path.stem) if rules.face_crop is not None else None
    if face is not None and rules.face_crop is not None:
        fit = zoom_on_face(record.size, face, rules.face_crop, fit.bucket, rules.random_crop, random)
    elif rules.random_crop:
        left, top = (random.randint(0, max(0, r - b)) for r, b in zip(fit.resized, fit.bucket, strict=True))
        fit = Fit(fit.bucket, fit.resized, (left, top, left + fit.bucket[0], top + fit.bucket[1]))
    hue, gamma = 0.0, 1.0
    if rules.color and random.random() < COLOUR_SHARE:
        if random.random() < 0.5:
            hue = random.uniform(-HUE_SHIFT, HUE_SHIFT)
        else:
            gamma = random.uniform(*GAMMA)
    return View(fit, flipped, hue, gamma, rules.background, rules.interpolation)


def still_view(record: ImageRecord, flipped: bool = False) -> View:
    """Return the view of an image without random changes."""
    return View(
        record.fit, flipped, background=record.image_rules.background, interpolation=record.image_rules.interpolation
    )


Face = tuple[int, int, int, int]  # centre x and y, width, height, in pixels of the original


def face_of(stem: str) -> Face | None:
    """Return the face in a file name as sd-scripts' face tool writes it: `name_x_y_width_height`.

    Return None for other names.
    """
    parts = stem.split("_")
    if len(parts) < 5 or not all(part.isdecimal() for part in parts[-4:]):
        return None
    x, y, width, height = (int(part) for part in parts[-4:])
    return (x, y, width, height) if max(width, height) > 0 else None


def zoom_on_face(
    size: Size, face: Face, bounds: tuple[float, float], target: Size, jitter: bool, random: Random
) -> Fit:
    """Return the fit with a window of the size `target` around the face, as in sd-scripts' `--face_crop_aug_range`.

    The image is resized so that the window's shorter side is `bounds` times the face, but it is never enlarged for
    that. With `jitter`, the window is moved at random.
    """
    side, shortest = max(face[2:]), min(target)
    least = max(target[0] / size[0], target[1] / size[1])
    smallest = max(least, min(1.0, max(least, shortest / (side * bounds[1]))))
    largest = max(smallest, min(1.0, shortest / (side * bounds[0])))
    scale = smallest if smallest >= largest else random.uniform(smallest, largest)
    resized = (max(target[0], int(size[0] * scale + 0.5)), max(target[1], int(size[1] * scale + 0.5)))
    starts = []
    for axis in (1, 0):  # height first, as in sd-scripts
        centre = int(face[axis] * scale + 0.5)
        start = centre - target[axis] // 2
        if jitter:
            reach = max(centre, resized[axis] - centre)  # distance to the farther edge
            start += random.randint(0, reach) + random.randint(0, reach) - reach
        elif bounds[0] != bounds[1] and side > shortest // 10 and side >= SHAKEN_FACE:
            start += random.randint(-side // 20, side // 20)
        starts.append(min(max(0, start), resized[axis] - target[axis]))
    top, left = starts
    return Fit(target, resized, (left, top, left + target[0], top + target[1]))
