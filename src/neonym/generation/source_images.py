"""Read the images and masks that generation starts from, as pixels and as tensors."""

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
NEW = 128  # mask pixels of this level (of 255) or lighter are regenerated


def open_source(
    file: str, size: Size, resampling: Image.Resampling = Image.Resampling.LANCZOS, to_srgb: bool = True
) -> Image.Image:
    """Return an image file turned upright, scaled to `size`, with white behind transparent parts. Raises DataError."""
    with readable(Path(file)) as image:
        return on_background(upright(image), BACKGROUND, to_srgb).resize(size, resampling)


def open_mask(file: str, size: Size) -> Image.Image:
    """Return a mask as grey levels, scaled without ringing, so that black stays black. Raises DataError."""
    return open_source(file, size, Image.Resampling.BILINEAR, to_srgb=False).convert("L")


def image_tensor(image: Image.Image) -> Tensor:
    """Return the pixels of an image as float32 [1,3,H,W] in -1..1, as a VAE reads them."""
    pixels = np.asarray(image.convert("RGB"), np.float32) / 127.5 - 1  # [H,W,3]
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def mask_tensor(masks: Sequence[Image.Image], pixels: int) -> Tensor:
    """Return masks on a grid of latents of `pixels` pixels per side, float32 [B,1,h,w]; 1 marks what is regenerated."""
    levels = np.stack([np.asarray(mask) for mask in masks])[:, None, ::pixels, ::pixels]
    return torch.from_numpy((levels >= NEW).astype(np.float32))


def keep_masked(image: Image.Image, job: Job) -> Image.Image:
    """Return the image with the part that its job's mask keeps restored, bit for bit. Raises DataError."""
    if job.mask is None or job.source is None:
        return image
    return Image.composite(image, open_source(job.source, image.size), open_mask(job.mask, image.size))
