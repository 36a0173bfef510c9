"""Compute buckets: their sizes, the bucket of each image, and how images are resized and cropped.

The rules are those of sd-scripts (its `BucketManager`), so that an existing dataset gives the same sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from neonym.types import Fit, Size


@dataclass(frozen=True)
class BucketRules:
    """The bucketing of one dataset. If it is not `enabled`, the resolution is the only bucket."""

    resolution: Size
    enabled: bool = False
    shortest: int = 256
    longest: int = 1024
    steps: int = 64
    no_upscale: bool = False

    def adjusted(self) -> BucketRules:
        """Return the rules with limits on the grid of `steps`: the shortest rounded down, the longest rounded up.

        Raises ValueError if the limits contradict each other or the resolution.
        """
        shortest = self.shortest // self.steps * self.steps
        longest = -(-self.longest // self.steps) * self.steps
        if shortest < 1 and not self.no_upscale:
            raise ValueError(f"min_bucket_reso {self.shortest} is smaller than bucket_reso_steps {self.steps}")
        if min(self.resolution) < shortest:
            raise ValueError(f"resolution {self.resolution} has a side below min_bucket_reso ({shortest})")
        if max(self.resolution) > longest:
            raise ValueError(f"resolution {self.resolution} has a side above max_bucket_reso ({longest})")
        return BucketRules(self.resolution, self.enabled, shortest, longest, self.steps, self.no_upscale)


def bucket_sizes(rules: BucketRules) -> list[Size]:
    """Return all buckets of `rules` (already adjusted), sorted by width, then by height.

    No bucket has a larger area than the resolution. With `no_upscale` there are no fixed buckets: the list is empty.
    """
    if rules.no_upscale:
        return []
    area, steps = rules.resolution[0] * rules.resolution[1], rules.steps
    square = math.isqrt(area) // steps * steps
    sizes = {(square, square)}
    widest = min(rules.longest, area // rules.shortest)
    for width in range(rules.shortest, widest + 1, steps):
        height = min(rules.longest, area // width // steps * steps)
        if height >= rules.shortest:
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def fit(size: Size, rules: BucketRules, sizes: list[Size]) -> Fit:
    """Return how an image of `size` fits its bucket. `sizes` is `bucket_sizes(rules)`, unused if buckets are off.

    Raises ValueError for an image that is too thin for any bucket.
    """
    if not rules.enabled:
        return cover(size, rules.resolution)
    if rules.no_upscale:
        return shrink_only(size, rules)
    if size in sizes:
        return cover(size, size)
    ratio = size[0] / size[1]
    return cover(size, min(sizes, key=lambda s: abs(s[0] / s[1] - ratio)))


def cover(size: Size, bucket: Size) -> Fit:
    """Return the fit of an image that is resized to cover the bucket, then cropped at the centre."""
    width, height = size
    wide = width / height > bucket[0] / bucket[1]
    scale = bucket[1] / height if wide else bucket[0] / width
    return centred(bucket, (int(width * scale + 0.5), int(height * scale + 0.5)))


def shrink_only(size: Size, rules: BucketRules) -> Fit:
    """Return the fit of an image under `bucket_no_upscale`: shrunk to the area if larger, then cropped to the grid.

    Raises ValueError for an image that is too thin or too small for the grid.
    """
    width, height = size
    area, steps, resized = rules.resolution[0] * rules.resolution[1], rules.steps, size
    if width * height > area:
        ratio = width / height
        ideal_width = math.sqrt(area * ratio)

        def on_grid(side: float) -> int:
            return int(side + 0.5) // steps * steps

        by_width, by_height = on_grid(ideal_width), on_grid(area / ideal_width)
        other_height, other_width = on_grid(by_width / ratio), on_grid(by_height * ratio)
        if not (other_height and by_height):
            raise ValueError(f"an image of {width} x {height} is too thin for buckets in steps of {steps}")
        if abs(by_width / other_height - ratio) < abs(other_width / by_height - ratio):
            resized = (by_width, int(by_width / ratio + 0.5))
        else:
            resized = (int(by_height * ratio + 0.5), by_height)
    bucket = (resized[0] // steps * steps, resized[1] // steps * steps)
    if 0 in bucket:
        raise ValueError(f"an image of {width} x {height} is too small for buckets in steps of {steps}")
    return centred(bucket, resized)


def centred(bucket: Size, resized: Size) -> Fit:
    """Return the fit that crops the bucket from the centre of the resized image."""
    left, top = (max(0, resized[0] - bucket[0]) // 2, max(0, resized[1] - bucket[1]) // 2)
    return Fit(bucket, resized, (left, top, left + bucket[0], top + bucket[1]))
