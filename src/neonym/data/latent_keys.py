"""Which pictures are encoded, under which name they are kept, and where each of them lies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from neonym.data.images import still_view
from neonym.types import ImageRecord, Size, View

Place = tuple[Path, View]
LAYOUT = "moments-3"  # changes with the meaning of an entry


def places(records: Iterable[ImageRecord]) -> list[Place]:
    """Every distinct picture to be encoded once; those that change from draw to draw are not among them."""
    found: dict[Place, None] = {}
    for record in records:
        if not record.image_rules.changes:
            for flipped in (False, True) if record.image_rules.flip else (False,):
                found[record.path, still_view(record, flipped)] = None
    return list(found)


def entry_name(content: str, view: View, vae_hash: str) -> str:
    """The key of an entry, as a file name. `content`: SHA-256 of the picture's file."""
    facts = (LAYOUT, content, view, vae_hash)
    return hashlib.sha256(repr(facts).encode()).hexdigest() + ".safetensors"


def told_sizes(size: Size, view: View) -> tuple[int, int, int, int, int, int]:
    """What SDXL is told of a picture: original height and width, crop from top and left, height and width trained on."""
    fit, (width, height) = view.fit, size
    left = fit.resized[0] - fit.crop[2] if view.flipped else fit.crop[0]
    return height, width, fit.crop[1], left, fit.bucket[1], fit.bucket[0]
