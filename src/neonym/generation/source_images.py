"""The images and masks that generation begins from, as pixels and as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from neonym.data.colour import on_background
from neonym.data.images import readable, upright
from neonym.generation.request.jobs import Job
from neonym.types import Size

BACKGROUND = (255, 255, 255)  # behind transparent parts
NEW = 128  # of 255: a mask's pixel that is as light is generated


def open_source(
    file: str, size: Size, resampling: Image.Resampling = Image.Resampling.LANCZOS, to_srgb: bool = True
) -> Image.Image:
    """Return an image file the right way up, scaled to `size`, with white behind what is clear. Raises DataError."""
    with readable(Path(file)) as image:
        return on_background(upright(image), BACKGROUND, to_srgb).resize(size, resampling)


def open_mask(file: str, size: Size) -> Image.Image:
    """Return a mask as grey levels, scaled without ringing: black stays black away from an edge. Raises DataError."""
    return open_source(file, size, Image.Resampling.BILINEAR, to_srgb=False).convert("L")


def image_tensor(image: Image.Image) -> Tensor:
    """Return the pixels of an image as a VAE reads them: float32 [1,3,H,W] in -1..1."""
    pixels = np.asarray(image.convert("RGB"), np.float32) / 127.5 - 1  # [H,W,3]
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def mask_tensor(masks: Sequence[Image.Image], pixels: int) -> Tensor:
    """Return masks on the grid of latents of `pixels` pixels a side: float32 [B,1,h,w], 1 for what is generated."""
    levels = np.stack([np.asarray(mask) for mask in masks])[:, None, ::pixels, ::pixels]
    return torch.from_numpy((levels >= NEW).astype(np.float32))


def keep_masked(image: Image.Image, job: Job) -> Image.Image:
    """Return the image with what its job's mask keeps put back as it was, bit for bit. Raises DataError."""
    if job.mask is None or job.source is None:
        return image
    return Image.composite(image, open_source(job.source, image.size), open_mask(job.mask, image.size))
