"""Bucket arithmetic: which shapes there are, which one an image goes to, how it is scaled and cut.

The rules are sd-scripts' (its `BucketManager`), so that an existing data set gives the same sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from neonym.types import Fit, Size


@dataclass(frozen=True)
class BucketRules:
    """A frozen record of one data set's bucketing. With `enabled` off there is one bucket: the resolution."""

    resolution: Size
    enabled: bool = False
    shortest: int = 256
    longest: int = 1024
    steps: int = 64
    no_upscale: bool = False

    def adjusted(self) -> BucketRules:
        """Return the rules with limits on the grid: the shortest side rounded down, the longest rounded up.

        Raises ValueError if the limits cannot hold.
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
    """Return every bucket of `rules` (already adjusted), sorted by width, then by height.

    None has a larger area than the resolution. Without upscaling no bucket is fixed: each image makes its own.
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

    Raises ValueError for an image so thin that no bucket holds it.
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
    """Return the fit of an image that is scaled so that it covers the bucket, then cut evenly."""
    width, height = size
    wide = width / height > bucket[0] / bucket[1]
    scale = bucket[1] / height if wide else bucket[0] / width
    return centred(bucket, (int(width * scale + 0.5), int(height * scale + 0.5)))


def shrink_only(size: Size, rules: BucketRules) -> Fit:
    """Return the fit of an image under `bucket_no_upscale`: shrunk to the area if larger, then cut down to the grid.

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
    """Return the fit that cuts the bucket from the middle of the resized image."""
    left, top = (max(0, resized[0] - bucket[0]) // 2, max(0, resized[1] - bucket[1]) // 2)
    return Fit(bucket, resized, (left, top, left + bucket[0], top + bucket[1]))
