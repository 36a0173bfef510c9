"""Pictures and captions: a drawing on a plain background of a named colour, and what is said of it.

Every draw comes from a numpy generator that the caller seeds; nothing here is global.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIZE = 128
COLOURS = {
    "red": (214, 40, 40), "orange": (247, 140, 40), "yellow": (250, 218, 60), "green": (60, 160, 70),
    "teal": (30, 160, 160), "blue": (50, 90, 220), "purple": (130, 60, 180), "pink": (250, 160, 200),
    "brown": (120, 75, 40), "black": (15, 15, 15), "gray": (128, 128, 128), "white": (250, 250, 250),
}  # fmt: skip
GENERIC = ("picture", "thing", "object", "drawing")


@dataclass(frozen=True)
class Placement:
    """Where the drawing lies: its side and top-left corner, in pixels."""

    side: int
    left: int
    top: int


def place(rng: np.random.Generator) -> Placement:
    """80-95 % of the picture, with little room to move: a small model learns steady pictures fastest."""
    side = round(SIZE * rng.uniform(0.82, 0.94))
    room = SIZE - side
    left, top = (round(room / 2 + rng.uniform(-0.25, 0.25) * room) for _ in range(2))
    return Placement(side, left, top)


def compose(drawing: np.ndarray, colour: str, at: Placement) -> Image.Image:
    """Lay a straight-alpha drawing (uint8 [128,128,4]) on a plain background. -> RGB 128 x 128"""
    picture = Image.new("RGB", (SIZE, SIZE), COLOURS[colour])
    scaled = Image.fromarray(drawing).convert("RGBa").resize((at.side, at.side), Image.Resampling.LANCZOS)
    scaled = scaled.convert("RGBA")
    picture.paste(scaled, (at.left, at.top), scaled)
    return picture


def article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def phrase(subject: str, style: str, colour: str, form: int) -> str:
    """One of six ways of saying the same. An empty `style` is left out."""
    ground = f"on {article(colour)} background"
    if not style:
        return (f"{subject} {ground}", f"{subject}, {colour} background")[form % 2]
    return (
        f"{article(style)} of {subject} {ground}",
        f"{subject}, {style}, {colour} background",
        f"{subject} {ground}, {style}",
        f"{article(style)} of {subject}, {colour} background",
        f"{style}, {subject} {ground}",
        f"{colour} background, {article(style)} of {subject}",
    )[form % 6]


def caption(
    name: str, category: str, style: str, colour: str, rng: np.random.Generator, generic: Sequence[str] = GENERIC
) -> str:
    """A caption as training draws it: 88 % by name, 7 % by category, 5 % by a generic word; 10 % without the style."""
    u = rng.random()
    said = name if u < 0.88 else category if u < 0.95 else generic[rng.integers(len(generic))]
    subject = said if rng.random() < 0.25 else article(said)
    shown_style = "" if rng.random() < 0.10 else style
    return phrase(subject, shown_style, colour, int(rng.integers(6)))


def full_caption(name: str, style: str, colour: str) -> str:
    """The plainest full caption: what scoring asks for."""
    return phrase(article(name), style, colour, 0)
