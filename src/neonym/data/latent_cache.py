"""Encode each image with the VAE once, and cache the moments, from which the latents are drawn at random.

The key of an entry consists of everything that determines it: the bytes of the file, the resizing, crop and mirroring,
and the VAE. If any of these changes, or if an entry is damaged, the image is encoded again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from neonym.data.images import is_one_colour, load_mask, load_pixels
from neonym.data.latent_keys import LatentKey, entry_names
from neonym.data.metadata_files import one_colour_problem
from neonym.data.shared_moments import SharedMoments
from neonym.io.ahead import ahead
from neonym.io.atomic import atomic_write, clear_leftovers
from neonym.types import ImageRecord, View

Encode = Callable[[torch.Tensor], torch.Tensor]  # from pixels [1,3,H,W] to moments [1,2C,h,w]


class Latents:
    """The moments of every draw: most are encoded before training, those of changing images when they are needed."""

    def __init__(self, known: dict[LatentKey, torch.Tensor], encode: Encode):
        self.known, self.encode = known, encode
        self.masks: dict[tuple, torch.Tensor] = {}

    def __getitem__(self, key: LatentKey) -> torch.Tensor:
        """Return the moments of a view, float32 [2C,h,w] on the CPU. Raises DataError if the image cannot be read."""
        found = self.known.get(key)
        return encode_image(key, self.encode) if found is None else found

    def mask(self, record: ImageRecord, view: View, size: tuple[int, int]) -> torch.Tensor:
        """Return the loss weight of each latent pixel of a masked image, the mean over its pixels: float32 [1,h,w].

        Raises DataError if the mask cannot be read.
        """
        key = (record.path, record.mask, view, size)
        found = self.masks.get(key)
        if found is None:
            pixels = torch.from_numpy(load_mask(record, view).copy())
            found = torch.nn.functional.interpolate(pixels[None, None], size=size, mode="area")[0]
            if not record.image_rules.changes:
                self.masks[key] = found
        return found


def encode_image(key: LatentKey, encode: Encode) -> torch.Tensor:
    """Return the moments of a view, float32 [2C,h,w]. Raises DataError if the image cannot be read."""
    return encoded(load_pixels(*key), encode)


def encoded(pixels: np.ndarray, encode: Encode) -> torch.Tensor:
    """Return the moments, float32 [2C,h,w] on the CPU, of pixels, float32 [3,H,W]."""
    return encode(torch.from_numpy(np.ascontiguousarray(pixels))[None])[0].float().cpu().contiguous()


def entry_checksum(file: Path, moments: torch.Tensor) -> str:
    """Return the hash of an entry's name, shape and numbers (the same numbers can have two shapes)."""
    return hashlib.sha256(repr((file.name, *moments.shape)).encode() + moments.numpy().tobytes()).hexdigest()


def read_entry(file: Path) -> torch.Tensor | None:
    """Return the moments of an entry, float32 [2C,h,w], or None if there is no valid entry."""
    try:
        with safe_open(file, framework="pt") as opened:
            moments, noted = opened.get_tensor("moments"), (opened.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    return moments if moments.dtype == torch.float32 and entry_checksum(file, moments) == noted else None


def write_entry(file: Path, moments: torch.Tensor) -> bool:
    """Write an entry atomically, and return whether it could be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            part.write_bytes(save({"moments": moments}, {"sha256": entry_checksum(file, moments)}))
    except OSError:
        return False
    return True


class EntryFolder:
    """The folder of the entries, if there is one. `note` is called once it cannot be written to: it is given up then."""

    def __init__(self, folder: Path | None, note: Callable[[str], None]):
        self.folder, self.note = folder, note
        if folder is not None:
            clear_leftovers(folder)

    def read(self, name: str) -> torch.Tensor | None:
        """Return the moments of an entry, float32 [2C,h,w], or None if there is no valid entry."""
        folder = self.folder  # another thread may give it up
        return None if folder is None else read_entry(folder / name)

    def has(self, name: str) -> bool:
        """Return whether there is a file of this name, without reading it."""
        return self.folder is not None and (self.folder / name).exists()

    def write(self, name: str, moments: torch.Tensor) -> None:
        """Write an entry."""
        if self.folder is not None and not write_entry(self.folder / name, moments):
            self.note(f"the cache folder {self.folder} cannot be written to, so nothing is cached there")
            self.folder = None


def cache_moments(
    records: Iterable[ImageRecord],
    encode: Encode,
    vae_hash: str,
    folder: Path | None,
    progress: Callable[[int, int], None],
    note: Callable[[str], None],
    warn: Callable[[str], None],
    known: Mapping[LatentKey, torch.Tensor] | None = None,
    shared: SharedMoments | None = None,
    readers: int = 0,
) -> dict[LatentKey, torch.Tensor]:
    """Return the moments, float32 [2C,h,w] on the CPU, of all images that are not changed in every draw.

    Images are encoded one at a time, so that the result does not depend on which entries existed. Entries are read from
    `folder` and written to it, if there is one. `warn` is called about images of one colour when they are encoded.
    `known` moments are not encoded, nor are those that are `shared` with other words. `progress` is called with the
    number of images done and the total. `readers` threads read the images to come; when encoding ends early, what they
    read at the moment is read to its end. Raises DataError if an image cannot be read.
    """
    records, plain = list(records), []
    shared = SharedMoments() if shared is None else shared
    moments = dict(known or {})
    names = {key: name for key, name in entry_names(records, vae_hash).items() if key not in moments}
    regular = {record.path for record in records if record.is_reg}
    common = {name for key, name in names.items() if key[0] in regular}
    entries, of_others = EntryFolder(folder, note), shared.find(names.values())
    for name, found in of_others.items():
        if not entries.has(name):
            entries.write(name, found)
    moments |= {key: of_others[name] for key, name in names.items() if name in of_others}
    wanted: dict[str, LatentKey] = {}  # each content once
    for key, name in names.items():
        if key not in moments:
            wanted.setdefault(name, key)

    def read(name: str) -> torch.Tensor | np.ndarray:
        found = entries.read(name)
        return load_pixels(*wanted[name]) if found is None else found

    by_name: dict[str, torch.Tensor] = {}
    with closing(ahead(read, wanted, readers)) as images:
        for done, (name, found) in enumerate(zip(wanted, images, strict=True)):
            progress(done, len(wanted))
            if isinstance(found, np.ndarray):
                plain += [wanted[name][0].name] if is_one_colour(found) else []
                found = encoded(found, encode)
                entries.write(name, found)
            by_name[name] = found
            shared.add(name, found, is_common=name in common)
    progress(len(wanted), len(wanted))
    moments |= {key: by_name[name] for key, name in names.items() if name in by_name}
    if plain:
        warn(str(one_colour_problem(plain)))
    return moments
