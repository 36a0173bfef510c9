"""Keys of latents: which images are encoded, and under which name each is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from neonym.data.images import still_view
from neonym.types import ImageRecord, Size, View

Place = tuple[Path, View]
LAYOUT = "moments-3"  # changes with the meaning of an entry


def places(records: Iterable[ImageRecord]) -> list[Place]:
    """Return every distinct image and view to encode, without images that change from draw to draw."""
    found: dict[Place, None] = {}
    for record in records:
        if not record.image_rules.changes:
            for flipped in (False, True) if record.image_rules.flip else (False,):
                found[record.path, still_view(record, flipped)] = None
    return list(found)


def entry_name(content: str, view: View, vae_hash: str) -> str:
    """Return the key of an entry as a file name; `content` is the SHA-256 of the image's file."""
    facts = (LAYOUT, content, view, vae_hash)
    return hashlib.sha256(repr(facts).encode()).hexdigest() + ".safetensors"


def told_sizes(size: Size, view: View) -> tuple[int, int, int, int, int, int]:
    """Return the sizes that SDXL takes as conditioning (Podell et al. 2023).

    They are the original height and width, the crop from top and left, and the height and width trained on.
    """
    fit, (width, height) = view.fit, size
    left = fit.resized[0] - fit.crop[2] if view.flipped else fit.crop[0]
    return height, width, fit.crop[1], left, fit.bucket[1], fit.bucket[0]
