"""Read and write image files with texts in them: text chunks in a PNG file, EXIF in the others."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from neonym.data.images import readable
from neonym.errors import UserError
from neonym.io.atomic import atomic_write, save_png
from neonym.io.json import with_escaped_surrogates

KEY = "neonym"  # key of the text that only Neonym reads
DESCRIPTION = 0x010E  # EXIF tag that holds that text in JPEG and WebP files
EXIF_FOLDER, USER_COMMENT = 0x8769, 0x9286  # where AUTOMATIC1111 looks for `parameters`
UNICODE = b"UNICODE\0"  # prefix of such a comment
MOST_BYTES = 60_000  # of texts: the EXIF data of a JPEG file is limited to 64 KiB
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")  # that can be written


def has_room(ending: str, prompt: str, negative: str, raw: str) -> bool:
    """Return whether a file with that ending has room for the texts, in JSON and, for `parameters`, in UTF-16."""
    size = sum(len(json.dumps(text)) for text in (prompt, negative, raw)) + len((prompt + negative).encode("utf-16-be"))
    return ending.lower() not in (".jpg", ".jpeg") or size <= MOST_BYTES


def save_image(image: Image.Image, path: Path, texts: dict[str, str]) -> None:
    """Write an image with its texts, atomically: the file is complete or absent. Raises UserError if that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".png":
            info = PngInfo()
            for key, text in texts.items():
                info.add_text(key, text) if text.isascii() else info.add_itxt(key, with_escaped_surrogates(text))
            save_png(image, path, info)
            return
        exif = Image.Exif()
        exif[DESCRIPTION] = f"{KEY}:{texts[KEY]}"
        exif.get_ifd(EXIF_FOLDER)[USER_COMMENT] = UNICODE + with_escaped_surrogates(texts["parameters"]).encode(
            "utf-16-be"
        )
        with atomic_write(path) as part:
            image.save(part, Image.registered_extensions()[path.suffix.lower()], exif=exif, quality=95)
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror or error})", str(path), "Is the disk full?") from error


def texts_in(file: str | Path) -> dict[str, str]:
    """Return the texts in an image file by key; EXIF has only `parameters` and KEY. Raises DataError."""
    with readable(Path(file)) as image:
        if image.format == "PNG":
            image.load()  # texts may come after the pixels
            return {str(key): text for key, text in image.info.items() if isinstance(text, str)}
        exif = image.getexif()
        ours, comment = exif.get(DESCRIPTION, ""), exif.get_ifd(EXIF_FOLDER).get(USER_COMMENT, b"")
    found = {KEY: ours.removeprefix(f"{KEY}:")} if isinstance(ours, str) and ours.startswith(f"{KEY}:") else {}
    if isinstance(comment, bytes) and comment.startswith(UNICODE):
        found["parameters"] = comment.removeprefix(UNICODE).decode("utf-16-be", errors="replace")
    return found
