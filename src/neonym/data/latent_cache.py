"""Every image goes through the VAE once; its moments are kept, so that the draw from the posterior stays random.

An entry is keyed by everything that decides it: the file's bytes, the scaling and cut, the mirror, the VAE. Any
other file is encoded anew, and so is an entry that cannot be read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from neonym.data.images import is_plain, load_mask, load_pixels
from neonym.data.latent_keys import Place, entry_name, places
from neonym.data.metadata_files import plain_images
from neonym.io.atomic import atomic_write, clear_leftovers
from neonym.types import ImageRecord, View

Encode = Callable[[torch.Tensor], torch.Tensor]  # [1,3,H,W] -> [1,2C,h,w]


class Latents:
    """The moments of every draw: those encoded before training, and those of images that change, encoded as needed."""

    def __init__(self, known: dict[Place, torch.Tensor], encode: Encode):
        self.known, self.encode = known, encode
        self.masks: dict[tuple, torch.Tensor] = {}

    def __getitem__(self, place: Place) -> torch.Tensor:
        """Return the moments of a place, float32 [2C,h,w] on the CPU. Raises DataError if the image cannot be read."""
        found = self.known.get(place)
        return encode_image(place, self.encode) if found is None else found

    def mask(self, record: ImageRecord, view: View, size: tuple[int, int]) -> torch.Tensor:
        """Return how much each place of the latent counts, averaged over its pixels: float32 [1,h,w].

        Raises DataError if the mask cannot be read.
        """
        if not record.masked:
            return torch.ones(1, *size)
        key = (record.path, record.mask, view, size)
        found = self.masks.get(key)
        if found is None:
            pixels = torch.from_numpy(load_mask(record, view).copy())
            found = torch.nn.functional.interpolate(pixels[None, None], size=size, mode="area")[0]
            if not record.image_rules.changes:
                self.masks[key] = found
        return found


def encode_image(place: Place, encode: Encode) -> torch.Tensor:
    """Return the moments of an image, float32 [2C,h,w]. Raises DataError if it cannot be read."""
    return encoded(load_pixels(*place), encode)


def encoded(pixels: np.ndarray, encode: Encode) -> torch.Tensor:
    """Return the moments of pixels: float32 [3,H,W] -> float32 [2C,h,w] on the CPU."""
    return encode(torch.from_numpy(np.ascontiguousarray(pixels))[None])[0].float().cpu().contiguous()


def checksum(file: Path, moments: torch.Tensor) -> str:
    """Return the hash of an entry's name, shape and numbers; 4 x 8 x 16 and 4 x 16 x 8 may have the same numbers."""
    return hashlib.sha256(repr((file.name, *moments.shape)).encode() + moments.numpy().tobytes()).hexdigest()


def read_entry(file: Path) -> torch.Tensor | None:
    """Return the moments of an entry, float32 [2C,h,w], or None if there is no sound entry."""
    try:
        with safe_open(file, framework="pt") as opened:
            moments, noted = opened.get_tensor("moments"), (opened.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    return moments if moments.dtype == torch.float32 and checksum(file, moments) == noted else None


def write_entry(file: Path, moments: torch.Tensor) -> bool:
    """Write an entry that is complete or absent, and return whether it could be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            part.write_bytes(save({"moments": moments}, {"sha256": checksum(file, moments)}))
    except OSError:
        return False
    return True


def cache_moments(
    records: Iterable[ImageRecord],
    encode: Encode,
    vae_hash: str,
    folder: Path | None,
    progress: Callable[[int, int], None],
    complain: Callable[[str], None],
    known: Mapping[Place, torch.Tensor] | None = None,
) -> dict[Place, torch.Tensor]:
    """Return the moments of every image that does not change from draw to draw: float32 [2C,h,w] on the CPU.

    Images are encoded one at a time, so that the numbers do not depend on which entries were there already. With a
    `folder`, entries are read from it and written to it; `complain` is called once if it cannot be written to, and it
    is then left alone. `complain` also hears of images of one colour when they are encoded. Moments that are `known`
    are taken as they are. Raises DataError if an image cannot be read.
    """
    records, plain = list(records), []
    moments = dict(known or {})
    wanted = [place for place in places(records) if place not in moments]
    contents = {record.path: record.content[:64] for record in records}  # without the mask's
    if folder is not None:
        clear_leftovers(folder)
    for done, place in enumerate(wanted):
        progress(done, len(wanted))
        file = folder / entry_name(contents[place[0]], place[1], vae_hash) if folder else None
        found = read_entry(file) if file else None
        if found is None:
            pixels = load_pixels(*place)
            plain += [place[0].name] if is_plain(pixels) else []
            found = encoded(pixels, encode)
            if file is not None and not write_entry(file, found):
                complain(f"the cache folder {folder} cannot be written to; going on without it")
                folder = None
        moments[place] = found
    progress(len(wanted), len(wanted))
    if plain:
        complain(f"warning: {plain_images(plain)}")
    return moments
