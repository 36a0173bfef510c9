"""Make contact sheets, which are rows of labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image, ImageDraw, ImageFont, ImageOps

MARGIN, LABEL = 4, 16


class Font(Protocol):
    """A Pillow font."""

    def getlength(self, text: str) -> float:
        """Return the width of a text in pixels."""
        ...


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], side: int = 128, heads: Sequence[str] = ()
) -> Image.Image:
    """Return an RGB sheet: each row's label above its images of `side` pixels, and `heads` above the columns."""
    columns = max(len(images) for _, images in rows)
    width = columns * (side + MARGIN) + MARGIN
    begin = MARGIN + (LABEL if heads else 0)
    page = Image.new("RGB", (width, begin + len(rows) * (side + LABEL + MARGIN)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for c, head in enumerate(heads):
        pen.text((MARGIN + c * (side + MARGIN), MARGIN), shorten_label(head, side, font), fill="black", font=font)
    for r, (label, images) in enumerate(rows):
        top = begin + r * (side + LABEL + MARGIN)
        pen.text((MARGIN, top), shorten_label(label, width - 2 * MARGIN, font), fill="black", font=font)
        for c, image in enumerate(images):
            fitted = ImageOps.pad(image.convert("RGB"), (side, side), color="white")
            page.paste(fitted, (MARGIN + c * (side + MARGIN), top + LABEL))
    return page


def shorten_label(text: str, width: int, font: Font) -> str:
    """Return a text, shortened to fit into `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
