"""Convert images to 8-bit sRGB: bit depths, palettes, transparency, embedded colour profiles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

Colour = tuple[int, int, int]
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}  # colour space of a profile -> mode of the pixels
NEAR = 2  # of 255 levels: a profile that changes no colour by more counts as sRGB


@dataclass(frozen=True)
class ColourConversion:
    """The conversion of a colour profile to sRGB."""

    mode: str = ""  # the mode of pixels that it applies to
    transform: ImageCms.ImageCmsTransform | None = None  # None: the colours are already sRGB
    fault: str = ""  # why the profile cannot be used


def on_background(image: Image.Image, background: Colour, managed: bool = True) -> Image.Image:
    """Return the image in sRGB, with transparent pixels composited on `background`.

    If it is not `managed`, like a mask, its colour profile is ignored.
    """
    colours, alpha = colours_and_alpha(image)
    profile = profile_of(image) if managed else None
    shown = in_srgb(colours, profile)
    if alpha is None:
        return shown
    shown.putalpha(alpha)
    ground = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(ground, shown).convert("RGB")


def colours_and_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours in a mode of `MODES`, and the opacity, or None if there is none."""
    if image.mode == "F" or image.mode.startswith("I"):
        return from_large_numbers(image)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        return clear.getchannel("R") if is_grey(image.mode) else clear.convert("RGB"), clear.getchannel("A")
    if is_grey(image.mode):
        return image.convert("L"), None
    return image if image.mode in MODES.values() else image.convert("RGB"), None


def from_large_numbers(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return a grey image of 16 or 32 bits converted to 8 bits, and its opacity if it has a transparent value.

    Integers are scaled from 65,535; floating-point values from 1, 255 or 65,535, the smallest that none exceeds.
    """
    values = np.nan_to_num(np.asarray(image, np.float32), posinf=0, neginf=0)  # [H,W]
    largest = 65535.0
    if image.mode == "F":
        largest = next((top for top in (1.0, 255.0) if values.max(initial=0) <= top), largest)
    grey = Image.fromarray((values * (255 / largest)).clip(0, 255).round().astype(np.uint8))
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return grey, None
    return grey, Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))


def is_grey(mode: str) -> bool:
    """Return whether pixels of this Pillow mode are grey."""
    return mode in ("1", "L", "LA", "La", "F") or mode.startswith("I")


def profile_of(image: Image.Image) -> bytes | None:
    """Return the embedded colour profile, empty if it is incomplete, or None if there is none."""
    return (image.info["icc_profile"] or b"") if "icc_profile" in image.info else None


def profile_fault(image: Image.Image) -> str:
    """Return why the image's profile cannot be used, or "" if it can or there is none. No pixels are read."""
    profile = profile_of(image)
    if profile is None:
        return ""
    space = "L" if is_grey(image.mode) else image.mode if image.mode in MODES.values() else "RGB"
    return fault_for(conversion(profile), space)


def fault_for(how: ColourConversion, mode: str) -> str:
    """Return why a conversion cannot be used for pixels of this mode, or "". Grey pixels may have an RGB profile."""
    if how.fault or how.mode == mode or (how.mode, mode) == ("RGB", "L"):
        return how.fault
    return f"it is for {how.mode}, not {mode}"


def changes_colours(image: Image.Image) -> bool:
    """Return whether the image's profile changes the colours of its pixels."""
    profile = profile_of(image)
    return profile is not None and not profile_fault(image) and conversion(profile).transform is not None


def in_srgb(colours: Image.Image, profile: bytes | None) -> Image.Image:
    """Return a new image in sRGB. A profile that cannot be used is ignored; `profile_fault` reports it."""
    if colours.mode == "LAB" and (profile is None or fault_for(conversion(profile), "LAB")):
        profile = lab_profile()
    how = ColourConversion() if profile is None else conversion(profile)
    if how.transform is None or fault_for(how, colours.mode):
        return colours.convert("RGB")
    converted = how.transform.apply(colours if colours.mode == how.mode else colours.convert(how.mode))
    converted.info.clear()
    return converted


@lru_cache(maxsize=32)
def conversion(profile: bytes) -> ColourConversion:
    """Return the conversion from a profile to sRGB. It is cached, since most datasets have one or two profiles."""
    if not profile:
        return ColourConversion(fault="it is incomplete or too large")
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = profile[16:20].decode("latin-1").strip()
        if space not in MODES:
            return ColourConversion(fault=f"it is for {space or 'nothing'}, which is not a colour space of images")
        mode = MODES[space]
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (OSError, ValueError, TypeError, ImportError, ImageCms.PyCMSError) as error:
        return ColourConversion(fault=f"{error}")
    return ColourConversion(mode, None if changes_nothing(transform, mode) else transform)


def changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether a transform changes none of a grid of RGB colours, or none of the greys, visibly."""
    if mode not in ("RGB", "L"):
        return False
    steps = np.linspace(0, 255, 16).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(16, -1, 3)
    before = Image.fromarray(cube) if mode == "RGB" else Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    moved = np.asarray(transform.apply(before), np.int16) - np.asarray(before.convert("RGB"), np.int16)
    return int(np.abs(moved).max()) <= NEAR


@lru_cache(maxsize=1)
def lab_profile() -> bytes:
    """Return the default profile for Lab images without a usable one."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
