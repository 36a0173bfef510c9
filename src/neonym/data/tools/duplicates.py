"""Find images that look the same, although they may differ in size, format or compression."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from neonym.data.colour import on_background
from neonym.data.images import FLAT, readable, upright
from neonym.errors import DataError

SIDE = 8  # a hash has 8 x 8 bits
FEW_BITS = 3  # images with at most this many different bits look the same
BANDS = FEW_BITS + 1  # two hashes with FEW_BITS differences agree in at least one band
CROWD = 500  # different images that agree in a band: comparing all pairs would take too long


def difference_hash(path: Path) -> int | None:
    """Return the "difference hash" of an image: 64 bits that tell where a tiny grey copy gets brighter to the right.

    Return None for an image of one colour. Raises DataError if it cannot be read.
    """
    with readable(path, small=(4 * SIDE, 4 * SIDE)) as image:
        grey = on_background(upright(image), (255, 255, 255)).convert("L")
        small = np.asarray(grey.resize((SIDE + 1, SIDE), Image.Resampling.BOX), np.int16)
    if int(small.max()) - int(small.min()) < FLAT:
        return None
    bits = (small[:, 1:] > small[:, :-1]).flatten()
    return int(sum(1 << i for i, bit in enumerate(bits) if bit))


def difference_hashes(paths: Sequence[Path]) -> dict[Path, int | None]:
    """Return the hashes of all images that can be read."""

    def one(path: Path) -> dict[Path, int | None]:
        try:
            return {path: difference_hash(path)}
        except DataError:
            return {}

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return dict(item for found in pool.map(one, paths, chunksize=16) for item in found.items())


def similar(found: Mapping[Path, int | None]) -> list[list[Path]]:
    """Return the sorted groups of images that look the same. `found` maps images to their hashes.

    Only images that share a band are compared. Images of one colour are never compared.
    """
    prints = {path: bits for path, bits in found.items() if bits is not None}
    bands: dict[tuple[int, int], list[Path]] = {}
    width = SIDE * SIDE // BANDS
    for path, bits in prints.items():
        for band in range(BANDS):
            bands.setdefault((band, bits >> (band * width) & ((1 << width) - 1)), []).append(path)
    leader = {path: path for path in prints}

    def find(path: Path) -> Path:
        while leader[path] != path:
            leader[path] = leader[leader[path]]
            path = leader[path]
        return path

    same: dict[int, Path] = {}
    for path, bits in prints.items():  # equal hashes first, so that thousands of copies are one member of each band
        leader[path] = same.setdefault(bits, path)
    for members in bands.values():
        distinct = sorted({same[prints[path]] for path in members})
        if len(distinct) > CROWD:  # a band without information, such as a white margin
            continue
        for first, second in combinations(distinct, 2):
            if (prints[first] ^ prints[second]).bit_count() <= FEW_BITS:
                leader[find(second)] = find(first)
    groups: dict[Path, list[Path]] = {}
    for path in prints:
        groups.setdefault(find(path), []).append(path)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)
