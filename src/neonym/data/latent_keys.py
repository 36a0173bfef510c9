"""Identify latents: which views of images are encoded, and the file name of each in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from neonym.data.images import still_view
from neonym.types import ImageRecord, Size, View

LatentKey = tuple[Path, View]
LAYOUT = "moments-3"  # version of the entries


def latent_keys(records: Iterable[ImageRecord]) -> list[LatentKey]:
    """Return each distinct image and view to encode once, without images that are changed in every draw."""
    found: dict[LatentKey, None] = {}
    for record in records:
        if not record.image_rules.changes:
            for flipped in (False, True) if record.image_rules.flip else (False,):
                found[record.path, still_view(record, flipped)] = None
    return list(found)


def entry_name(content: str, view: View, vae_hash: str) -> str:
    """Return the file name of an entry in the cache. `content` is the SHA-256 of the image file."""
    facts = (LAYOUT, content, view, vae_hash)
    return hashlib.sha256(repr(facts).encode()).hexdigest() + ".safetensors"


def entry_names(records: Iterable[ImageRecord], vae_hash: str) -> dict[LatentKey, str]:
    """Return the file names in the cache of everything that is encoded once."""
    records = list(records)
    contents = {record.path: record.content[:64] for record in records}  # without the hash of the mask
    return {key: entry_name(contents[key[0]], key[1], vae_hash) for key in latent_keys(records)}


def size_conditioning(size: Size, view: View) -> tuple[int, int, int, int, int, int]:
    """Return the size conditioning of SDXL (Podell et al. 2023).

    It consists of the original height and width, the crop from top and left, and the target height and width.
    """
    fit, (width, height) = view.fit, size
    left = fit.resized[0] - fit.crop[2] if view.flipped else fit.crop[0]
    return height, width, fit.crop[1], left, fit.bucket[1], fit.bucket[0]
