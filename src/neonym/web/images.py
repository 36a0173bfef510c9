"""Serve images: thumbnails, made when they are first seen, and files of the folders that the page may read."""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Semaphore
from urllib.parse import urlencode

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from PIL import Image, ImageOps

from neonym.web.home import Home

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
DOWNLOADS = (".safetensors", ".pt", ".bin", ".ckpt", ".png", ".md", ".toml")
# Formats of pictures; Pillow also reads some that other programs would have to run, such as PostScript
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
PIXELS = Semaphore(2)  # images that are in memory at once
SIDES = (160, 320, 640)  # pixels of thumbnails
A_YEAR = "private, max-age=31536000, immutable"  # the URL changes with the file


def thumbnail_url(file: Path, side: int = 320) -> str:
    """Return the URL of a thumbnail, which changes when the file does."""
    return f"/thumbnail?{query(path=file, side=side, at=changed(file))}"


def file_url(file: Path, download: bool = False) -> str:
    """Return the URL of a file."""
    return f"/file?{query(path=file, download=int(download), at=changed(file))}"


def query(**values: object) -> str:
    """Return the query of a URL; file names need not be Unicode."""
    return urlencode({name: str(value) for name, value in values.items()}, errors="surrogateescape")


def changed(file: Path) -> int:
    """Return when a file was changed, 0 if it is not there."""
    try:
        return file.stat().st_mtime_ns
    except (OSError, ValueError):
        return 0


def serve_images(app: FastAPI, home: Home) -> None:
    """Add the routes for thumbnails and files to an application."""

    @app.get("/thumbnail")
    def thumbnail(path: str, side: int = SIDES[1]) -> Response:  # in a thread, as it is no coroutine
        file = Path(path)
        if side not in SIDES or file.suffix.lower() not in ENDINGS or not home.allows(file) or not file.is_file():
            return Response("there is no such image", 404)
        found = cached_thumbnail(home, file, side)
        return Response(found, media_type="image/webp", headers={"Cache-Control": A_YEAR}) if found else broken()

    @app.get("/file")
    def whole(path: str, download: bool = False) -> Response:
        file = Path(path)
        is_image = file.suffix.lower() in ENDINGS
        if not (is_image or file.suffix.lower() in DOWNLOADS) or not home.allows(file) or not file.is_file():
            return Response("there is no such file", 404)
        # only images are shown; everything else is downloaded, so that nothing in it runs here
        disposition = "inline" if is_image and not download else "attachment"
        return FileResponse(
            file,
            filename=file.name,
            content_disposition_type=disposition,
            media_type=None if is_image else "application/octet-stream",
        )


def broken() -> Response:
    """Return the answer for an image that cannot be read."""
    return Response("the image cannot be read", 415)


def cached_thumbnail(home: Home, file: Path, side: int) -> bytes | None:
    """Return a thumbnail from the cache, or make it; None if the image cannot be read."""
    key = sha256(f"{file.resolve()}\0{changed(file)}\0{side}".encode("utf-8", "surrogatepass")).hexdigest()
    cached = home.folder("cache") / f"{key}.webp"
    try:
        return cached.read_bytes()
    except OSError:
        pass
    try:
        with PIXELS, Image.open(file, formats=FORMATS) as opened:
            opened.draft("RGB", (side, side))  # of JPEGs, only as many pixels as are needed are decoded
            image = ImageOps.exif_transpose(opened)
            image.thumbnail((side, side))
            shown = image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB")
            data = BytesIO()
            shown.save(data, "WEBP", quality=82)
    except Exception:  # Pillow fails in any way on broken images
        return None
    with suppress(OSError), NamedTemporaryFile(dir=cached.parent, suffix=".part", delete=False) as part:
        part.write(data.getvalue())
        Path(part.name).replace(cached)  # several requests may make the same one
    return data.getvalue()


def is_image(data: Path) -> bool:
    """Return whether a file is an image whose pixels can be read."""
    try:
        with PIXELS, Image.open(data, formats=FORMATS) as opened:
            opened.load()
    except Exception:  # as above
        return False
    return True
