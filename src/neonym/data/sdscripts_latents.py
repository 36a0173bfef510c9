"""Latents that sd-scripts cached beside the images (`NAME_0768x0512_sd.npz`), used if they suit the run.

They are one draw from the VAE's distribution, so an image read this way has no posterior noise. The files do not say
which VAE made them.
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

OLD = ".npz"  # the ending of such files if no family is part of their names
SURE = -60.0  # log-variance of a value that is not drawn


def cache_file(image: Path, size: Size, suffix: str | None) -> Path:
    """Return where sd-scripts keeps an image's latents; `NAME.npz`, of older versions, comes first."""
    old = image.with_suffix(".npz")
    return old if old.is_file() else image.with_name(f"{image.stem}_{size[0]:04d}x{size[1]:04d}{suffix or OLD}")


def read_latents(record: ImageRecord, view: View, suffix: str | None, channels: int, factor: int) -> torch.Tensor | str:
    """Return the moments from sd-scripts' file, float32 [2C,h,w], or the reason why they cannot be used."""
    if other := seen_otherwise(record):
        return other
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
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        return f"it cannot be read ({error})"
    wanted = (channels, view.fit.bucket[1] // factor, view.fit.bucket[0] // factor)
    if size != record.size or latents.shape != wanted or latents.dtype.kind != "f":
        return f"it is of {size} with latents {latents.shape}, not of {record.size} with {wanted}"
    if not np.isfinite(latents).all():
        return "it holds numbers that are not finite"
    mean = torch.from_numpy(latents.astype(np.float32))
    return torch.cat([mean, torch.full_like(mean, SURE)])


def seen_otherwise(record: ImageRecord) -> str:
    """Return why sd-scripts makes other pixels of the image than Neonym does, or "" if it makes the same."""
    try:
        with pillow_warnings(), Image.open(record.path) as image:
            if image.size != record.size:
                return "the image is turned by its EXIF orientation, which sd-scripts does not see"
            if image.has_transparency_data:
                return "the image is transparent, of which sd-scripts makes other pixels"
            if image.mode.startswith(("I", "F")):
                return "the image has 16 bits, of which sd-scripts makes other pixels"
            if changes_colours(image):
                return "the image has a colour profile, which sd-scripts does not see"
    except UNREADABLE:
        return "the image is damaged beside its pixels, so sd-scripts does not read it"
    return ""


def known_latents(
    records: Iterable[ImageRecord], places: Iterable[tuple[Path, View]], suffix: str | None, channels: int, factor: int
) -> tuple[dict[tuple[Path, View], torch.Tensor], dict[str, int]]:
    """Return the moments that could be read, float32 [2C,h,w] each, and for each reason how many could not."""
    by_path = {record.path: record for record in records}
    found, refused = {}, dict[str, int]()
    for path, view in places:
        read = read_latents(by_path[path], view, suffix, channels, factor)
        if isinstance(read, str):
            refused[read] = refused.get(read, 0) + 1
        else:
            found[path, view] = read
    return found, refused
