"""Contact sheets: rows of pictures with labels."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

MARGIN, LABEL = 4, 16


def sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], side: int = 128) -> Image.Image:
    """Each row a label above its pictures, every picture scaled to `side`. -> RGB"""
    columns = max(len(pictures) for _, pictures in rows)
    width = columns * (side + MARGIN) + MARGIN
    page = Image.new("RGB", (width, len(rows) * (side + LABEL + MARGIN) + MARGIN), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for r, (label, pictures) in enumerate(rows):
        top = MARGIN + r * (side + LABEL + MARGIN)
        pen.text((MARGIN, top), label, fill="black", font=font)
        for c, picture in enumerate(pictures):
            page.paste(picture.convert("RGB").resize((side, side)), (MARGIN + c * (side + MARGIN), top + LABEL))
    return page
