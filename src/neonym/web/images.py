"""Serve images: thumbnails, made when they are first seen, and files of the folders that the page may read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qs, urlencode

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from PIL import Image, ImageOps

from neonym.config.file_kinds import IMAGES
from neonym.web.cache import Cache
from neonym.web.home import Home, plain

try:
    import pillow_jxl as _  # pyright: ignore[reportMissingImports] # noqa: F401
except ImportError:
    JPEG_XL = ()
else:
    JPEG_XL = ("JXL",)

ENDINGS = tuple(ending for ending in IMAGES if JPEG_XL or ending != ".jxl")  # that training reads here
DOWNLOADS = (".safetensors", ".pt", ".bin", ".ckpt", ".png", ".md", ".toml")
# Formats of pictures; Pillow also reads some that other programs would have to run, such as PostScript
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "AVIF", *JPEG_XL)
MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 2**26  # of an image that is opened here
PIXELS = ThreadPoolExecutor(1, "images")  # one at a time, always in one thread: each thread keeps memory for itself
SIDES = (160, 320, 640, 1280)  # pixels of thumbnails
THUMBNAIL = ".webp"
MOST_KEPT = 500 * 2**20  # bytes of thumbnails
COARSE = 4  # times that size, to which images are reduced by leaving pixels out, which takes no memory
A_YEAR = "private, max-age=31536000, immutable"  # the URL changes with the file


def thumbnail_url(file: Path, side: int = 320) -> str:
    """Return the URL of a thumbnail, which changes when the file does."""
    return f"/thumbnail?{query(path=file, side=side, at=modified_ns(file))}"


def file_url(file: Path, download: bool = False) -> str:
    """Return the URL of a file."""
    return f"/file?{query(path=file, download=int(download), at=modified_ns(file))}"


def query(**values: object) -> str:
    """Return the query of a URL, with a list for a name that has several values; file names need not be Unicode."""
    pairs = [(name, each) for name, value in values.items() for each in (value if isinstance(value, list) else [value])]
    return urlencode([(name, str(value)) for name, value in pairs], errors="surrogateescape")


def paths_of(request: Request, name: str) -> list[Path]:
    """Return the paths of a name in the query of a request; file names need not be Unicode."""
    text = request.scope["query_string"].decode("latin-1")
    return [Path(value) for value in parse_qs(text, errors="surrogateescape").get(name, ())]


def modified_ns(file: Path) -> int:
    """Return when a file was changed, in nanoseconds since 1970; 0 if it is not there."""
    try:
        return file.stat().st_mtime_ns
    except (OSError, ValueError):
        return 0


def serve_images(app: FastAPI, home: Home) -> None:
    """Add the routes for thumbnails and files to an application."""
    cache = Cache(home.folder("cache"), THUMBNAIL, MOST_KEPT)

    @app.get("/thumbnail")
    def thumbnail(request: Request, side: int = SIDES[1]) -> Response:  # in a thread, as it is no coroutine
        file = served_file(home, request, ENDINGS)
        if file is None or side not in SIDES:
            return Response("there is no such image", 404)
        found = cached_thumbnail(cache, file, side)
        return Response(found, media_type="image/webp", headers={"Cache-Control": A_YEAR}) if found else broken()

    @app.get("/file")
    def whole(request: Request, download: bool = False) -> Response:
        file = served_file(home, request, (*ENDINGS, *DOWNLOADS))
        if file is None:
            return Response("there is no such file", 404)
        is_image = file.suffix.lower() in ENDINGS
        # only images are shown; everything else is downloaded, so that nothing in it runs here
        disposition = "inline" if is_image and not download else "attachment"
        return FileResponse(
            file,
            filename=plain(file.name),
            content_disposition_type=disposition,
            media_type=None if is_image else "application/octet-stream",
        )


def served_file(home: Home, request: Request, endings: Sequence[str]) -> Path | None:
    """Return the file that a request asks for, if it has one of these endings and the page may read it."""
    file = next(iter(paths_of(request, "path")), Path())
    return file if file.suffix.lower() in endings and home.can_read(file) else None


def broken() -> Response:
    """Return the answer for an image that cannot be read."""
    return Response("the image cannot be read", 415)


def cached_thumbnail(cache: Cache, file: Path, side: int) -> bytes | None:
    """Return a thumbnail from the cache, or make it; None if the image cannot be read."""
    key = sha256(f"{file.resolve()}\0{modified_ns(file)}\0{side}".encode("utf-8", "surrogatepass")).hexdigest()
    try:
        return cache.read(key) or PIXELS.submit(kept_thumbnail, cache, key, file, side).result()
    except Exception:  # Pillow fails in any way on broken images
        return None


def kept_thumbnail(cache: Cache, key: str, file: Path, side: int) -> bytes:
    """Return a thumbnail, and keep it in the cache, unless another request has done that since."""
    if known := cache.read(key):
        return known
    data = made_thumbnail(file, side)
    cache.write(key, data)
    return data


def made_thumbnail(file: Path, side: int) -> bytes:
    """Return a thumbnail as WebP. Raises any exception if the image cannot be read."""
    with opened_image(file) as opened:
        opened.draft("RGB", (side, side))  # of JPEGs, only as many pixels as are needed are decoded
        scale = min(1.0, COARSE * side / max(opened.size))
        coarse = opened.resize([max(1, round(size * scale)) for size in opened.size], Image.Resampling.NEAREST)
    has_alpha = "A" in coarse.getbands() or "transparency" in coarse.info
    image = ImageOps.exif_transpose(coarse).convert("RGBA" if has_alpha else "RGB")
    image.thumbnail((side, side))
    data = BytesIO()
    image.save(data, "WEBP", quality=82)
    return data.getvalue()


@contextmanager
def opened_image(file: Path) -> Iterator[Image.Image]:
    """Open an image whose pixels are not too many. Raises DecompressionBombError if they are, or what Pillow raises."""
    with Image.open(file, formats=FORMATS) as opened:
        if opened.width * opened.height > MOST_PIXELS:
            raise Image.DecompressionBombError
        yield opened


def fault_of_image(file: Path) -> str:
    """Return what is wrong with an image, "" if its pixels can be read."""
    try:
        PIXELS.submit(load, file).result()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"has more than {MOST_PIXELS // 10**6} million pixels"
    except Exception:  # as above
        return "is not an image that can be read"
    return ""


def load(file: Path) -> None:
    """Read the pixels of an image. Raises any exception if they cannot be read."""
    with opened_image(file) as opened:
        opened.load()
