"""Helpers that write small datasets."""

from io import BytesIO
from pathlib import Path

from PIL import Image

COLOURS = [(200, 40, 40), (40, 160, 60), (50, 90, 220), (240, 220, 60), (250, 250, 250), (20, 20, 20)]


def make_images(folder: Path, count: int = 6, size=(128, 128), caption: str | None = "a sticker of a mychar4") -> Path:
    """Write images of a rectangle of one colour on another, each with a caption, and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image = Image.new("RGB", size, COLOURS[i % len(COLOURS)])
        image.paste(COLOURS[(i + 2) % len(COLOURS)], (size[0] // 4, size[1] // 4, size[0] // 2 + 8 * i, size[1] // 2))
        image.save(folder / f"{i:02}.png")
        if caption is not None:
            (folder / f"{i:02}.txt").write_text(f"{caption} {i}")
    return folder


def png(size: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    """Return the bytes of an image of one colour."""
    data = BytesIO()
    Image.new(mode, size, "red").save(data, "PNG")
    return data.getvalue()


def subset(tmp_path: Path, **values) -> dict:
    """Return a dataset table with one subset, the folder `a`."""
    return {"datasets": [{"subsets": [{"image_dir": str(tmp_path / "a"), **values}]}]}
