"""Sheets of labelled images."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from neonym.errors import ConfigError, Problem
from neonym.generation import sheets

SIDE = 512  # pixels of an image on a sheet, at most, unless the caller says otherwise


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], heads: Sequence[str] = (), side: int | None = None
) -> Image.Image:
    """Return one image with all images of `rows`, to compare them.

    Args:
        rows: The label of each row, and its images. A row may be shorter than the others.
        heads: The labels of the columns.
        side: The side of the square into which each image is fitted, in pixels (default: that of the largest image, but
            at most 512).

    Raises ConfigError if there are no images, or if `side` is less than 1.
    """
    sides = [max(image.size) for _, images in rows for image in images]
    if not sides:
        raise ConfigError([Problem("error", "there are no images", "rows", "Pass at least one image")])
    if side is not None and side < 1:
        raise ConfigError([Problem("error", f"{side} is less than 1", "side")])
    return sheets.contact_sheet(rows, side or min(SIDE, max(sides)), heads)
