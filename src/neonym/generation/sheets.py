"""Make contact sheets, which are rows of labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image, ImageDraw, ImageFont, ImageOps

MARGIN = 4
LEAST_LABEL, IMAGE_PER_LABEL = 16, 16  # pixels; a label has at least a sixteenth of the images' height


class Font(Protocol):
    """A Pillow font."""

    def getlength(self, text: str) -> float:
        """Return the width of a text in pixels."""
        ...


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], side: int = 128, heads: Sequence[str] = ()
) -> Image.Image:
    """Return an RGB sheet: each row's label above its images of `side` pixels, and `heads` above the columns."""
    columns, label_height = max(len(images) for _, images in rows), max(LEAST_LABEL, side // IMAGE_PER_LABEL)
    width = columns * (side + MARGIN) + MARGIN
    begin = MARGIN + (label_height if heads else 0)
    page = Image.new("RGB", (width, begin + len(rows) * (side + label_height + MARGIN)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(3 * label_height // 4)
    for c, head in enumerate(heads):
        pen.text((MARGIN + c * (side + MARGIN), MARGIN), shorten_label(head, side, font), fill="black", font=font)
    for r, (label, images) in enumerate(rows):
        top = begin + r * (side + label_height + MARGIN)
        pen.text((MARGIN, top), shorten_label(label, width - 2 * MARGIN, font), fill="black", font=font)
        for c, image in enumerate(images):
            fitted = ImageOps.pad(image.convert("RGB"), (side, side), color="white")
            page.paste(fitted, (MARGIN + c * (side + MARGIN), top + label_height))
    return page


def shorten_label(text: str, width: int, font: Font) -> str:
    """Return a text, shortened to fit into `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
