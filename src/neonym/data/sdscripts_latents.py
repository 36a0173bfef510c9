"""Read latents that sd-scripts cached beside the images (`NAME_0768x0512_sd.npz`), if they fit the run.

They are one draw from the VAE's distribution, so images read in this way have no posterior noise. The files do not
record which VAE made them.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from neonym.data.colour import changes_colours
from neonym.data.images import UNREADABLE
from neonym.data.library_warnings import pillow_warnings
from neonym.types import ImageRecord, Size, View

OLD = ".npz"  # the end of the file name if no family is part of it
FIXED = -60.0  # log-variance of a value that is not drawn
# The exceptions of numpy.load for damaged files
UNREADABLE_ARCHIVE = (
    OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def cache_file(image: Path, size: Size, suffix: str | None) -> Path:
    """Return the file in which sd-scripts caches an image's latents.

    `NAME.npz`, from older versions, has precedence.
    """
    old = image.with_suffix(".npz")
    return old if old.is_file() else image.with_name(f"{image.stem}_{size[0]:04d}x{size[1]:04d}{suffix or OLD}")


def read_latents(record: ImageRecord, view: View, suffix: str | None, channels: int, factor: int) -> torch.Tensor | str:
    """Return the moments in sd-scripts' file, float32 [2C,h,w], or the reason why they cannot be used."""
    if difference := pixel_difference(record):
        return difference
    file = cache_file(record.path, record.size, suffix)
    if not file.is_file():
        return "there is no file"
    if file.stat().st_mtime < record.path.stat().st_mtime:
        return "the image is newer"
    key = "latents_flipped" if view.flipped else "latents"
    try:
        with np.load(file, allow_pickle=False) as opened:
            if key not in opened.files or "original_size" not in opened.files:
                return f"it has no {key}"
            latents, size = opened[key], tuple(int(side) for side in opened["original_size"])
    except UNREADABLE_ARCHIVE as error:
        return f"it cannot be read ({error})"
    wanted = (channels, view.fit.bucket[1] // factor, view.fit.bucket[0] // factor)
    if size != record.size or latents.shape != wanted or latents.dtype.kind != "f":
        return f"it is for {size} with latents {latents.shape}, not for {record.size} with {wanted}"
    if not np.isfinite(latents).all():
        return "it holds numbers that are not finite"
    mean = torch.from_numpy(latents.astype(np.float32))
    return torch.cat([mean, torch.full_like(mean, FIXED)])


def pixel_difference(record: ImageRecord) -> str:
    """Return why sd-scripts reads other pixels from the image than Neonym, or "" if it reads the same."""
    try:
        with pillow_warnings(), Image.open(record.path) as image:
            if image.size != record.size:
                return "the image has an EXIF orientation, which sd-scripts ignores"
            if image.has_transparency_data:
                return "the image is transparent, which sd-scripts handles differently"
            if image.mode.startswith(("I", "F")):
                return "the image has 16 bits, which sd-scripts handles differently"
            if changes_colours(image):
                return "the image has a colour profile, which sd-scripts ignores"
    except UNREADABLE:
        return "the image is damaged outside its pixels, so sd-scripts cannot read it"
    return ""


def known_latents(
    records: Iterable[ImageRecord], keys: Iterable[tuple[Path, View]], suffix: str | None, channels: int, factor: int
) -> tuple[dict[tuple[Path, View], torch.Tensor], dict[str, int]]:
    """Return the moments that can be used, float32 [2C,h,w], and for each reason the number of those that cannot."""
    by_path = {record.path: record for record in records}
    found, refused = {}, dict[str, int]()
    for path, view in keys:
        read = read_latents(by_path[path], view, suffix, channels, factor)
        if isinstance(read, str):
            refused[read] = refused.get(read, 0) + 1
        else:
            found[path, view] = read
    return found, refused
