"""Contact sheets: rows of pictures with labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

MARGIN, LABEL = 4, 16


def sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], side: int = 128, heads: Sequence[str] = ()) -> Image.Image:
    """Each row a label above its pictures, every picture scaled to fit `side`; `heads` above the columns. -> RGB"""
    columns = max(len(pictures) for _, pictures in rows)
    width = columns * (side + MARGIN) + MARGIN
    begin = MARGIN + (LABEL if heads else 0)
    page = Image.new("RGB", (width, begin + len(rows) * (side + LABEL + MARGIN)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for c, head in enumerate(heads):
        pen.text((MARGIN + c * (side + MARGIN), MARGIN), clipped(head, side, font), fill="black", font=font)
    for r, (label, pictures) in enumerate(rows):
        top = begin + r * (side + LABEL + MARGIN)
        pen.text((MARGIN, top), clipped(label, width - 2 * MARGIN, font), fill="black", font=font)
        for c, picture in enumerate(pictures):
            fitted = ImageOps.pad(picture.convert("RGB"), (side, side), color="white")
            page.paste(fitted, (MARGIN + c * (side + MARGIN), top + LABEL))
    return page


def clipped(text: str, width: int, font: Any) -> str:
    """As much of `text` as fits into `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
