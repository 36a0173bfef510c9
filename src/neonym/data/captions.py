"""From a caption file to the text that is trained on."""

from pathlib import Path

from neonym.errors import DataError
from neonym.seeds import dice
from neonym.types import CaptionRules

FOUND_UNASKED = (".caption", ".txt")


def read_caption(image: Path, extension: str | None) -> str | None:
    """The first line of the caption file beside `image`, or None if there is none. Raises DataError."""
    endings = FOUND_UNASKED if extension is None else (extension if extension.startswith(".") else f".{extension}",)
    for ending in endings:
        path = image.with_suffix(ending)
        if path.is_file():
            return first_line(path)
    return None


def first_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", str(path), "Save the caption as UTF-8") from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", str(path)) from error
    return lines[0].strip() if lines else ""


def final_caption(caption: str, rules: CaptionRules, key: tuple[int | str, ...]) -> str:
    """Apply prefix, suffix and tag shuffling. `key` decides the shuffle."""
    if rules.prefix:
        caption = f"{rules.prefix} {caption}"
    if rules.suffix:
        caption = f"{caption} {rules.suffix}"
    if not rules.shuffle:
        return caption
    tags = [tag.strip() for tag in caption.strip().split(rules.separator)]
    fixed, loose = tags[: rules.keep_tokens], tags[rules.keep_tokens :]
    dice(*key, "shuffle").shuffle(loose)
    joint = ", " if rules.separator == "," else rules.separator
    return joint.join(fixed + loose)
