"""Reading pictures: orientation, transparency, scaling and cutting."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from neonym.errors import DataError
from neonym.types import Fit, Size

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif"}
ORIENTATION = 0x0112  # EXIF tag
BACKGROUND = (255, 255, 255)  # what transparent pixels are laid on


def find_images(folder: Path) -> list[Path]:
    """Pictures directly in `folder`, sorted by name; hidden files and other endings are passed over."""
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in ENDINGS and not p.name.startswith(".") and p.is_file()
    )


def image_size(path: Path) -> Size:
    """Size as shown (EXIF orientation applied). Raises DataError if the header or the picture itself is damaged."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            picture.draft("RGB", (1, 1))  # a JPEG is decoded at an eighth of its size: enough to see that it is whole
            picture.load()
            return (height, width) if picture.getexif().get(ORIENTATION, 1) >= 5 else (width, height)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot be read as a picture ({error})", str(path), "Remove or replace it") from error


def load_pixels(path: Path, fit: Fit, flipped: bool = False) -> np.ndarray:
    """The picture as the VAE wants it. -> float32 [3,H,W] in -1..1. Raises DataError."""
    try:
        with Image.open(path) as opened:
            picture = on_background(ImageOps.exif_transpose(opened))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot be read as a picture ({error})", str(path), "Remove or replace it") from error
    if picture.size != fit.resized:
        picture = picture.resize(fit.resized, Image.Resampling.LANCZOS, reducing_gap=3.0)
    picture = picture.crop(fit.crop)
    if flipped:
        picture = ImageOps.mirror(picture)
    return np.asarray(picture, np.float32).transpose(2, 0, 1) / 127.5 - 1


def on_background(picture: Image.Image) -> Image.Image:
    """RGB, transparent pixels laid on `BACKGROUND`, 16-bit grey scaled instead of cut off."""
    if picture.mode in ("I;16", "I;16B", "I"):
        return Image.fromarray((np.asarray(picture, np.float32) / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, (*BACKGROUND, 255))
        return Image.alpha_composite(ground, picture).convert("RGB")
    return picture.convert("RGB")


def content_hash(path: Path) -> str:
    """Of the file's bytes: what a cache entry is keyed by."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
