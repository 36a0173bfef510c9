"""The values that flow, with their shapes.

Letters: B samples, N concepts, C latent channels, h,w latent size (H,W pixels), K chunks, L = 77 ids a chunk,
S text positions, D text width, n rows of a concept, W width of an encoder's token table, V its vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Size = tuple[int, int]  # (width, height), as Pillow says it


@dataclass(frozen=True)
class CaptionRules:
    """How a caption becomes the text that is trained on (dataset.md section 7)."""

    prefix: str | None = None
    suffix: str | None = None
    separator: str = ","
    shuffle: bool = False
    keep_tokens: int = 0


@dataclass(frozen=True)
class Fit:
    """How a picture is brought to its bucket: scaled to `resized`, then cut to `crop` (left, top, right, bottom)."""

    bucket: Size
    resized: Size
    crop: tuple[int, int, int, int]


@dataclass(frozen=True)
class ImageRecord:
    """One picture of the data set and everything that was decided about it."""

    path: Path
    caption: str
    size: Size  # after EXIF orientation
    fit: Fit
    concept: int  # index into the concepts
    dataset: int  # index into the data sets
    repeats: int
    is_reg: bool
    flip: bool
    rules: CaptionRules


@dataclass(frozen=True)
class Draw:
    """One sample of one step. `key` seeds every random draw made for it."""

    record: ImageRecord
    caption: str
    flipped: bool
    key: tuple[int, int, int]  # (concept seed, step, slot)
    level: float  # noise level, 0 to 1 (excluded): which timestep
    weight: float


@dataclass(frozen=True)
class Batch:
    """Samples of one size that go through the model together."""

    moments: Tensor  # [B,2C,h,w] VAE mean and log-variance
    tokens: dict[str, Tensor]  # per encoder int64 [B,K,L]; an id >= V reads a learned row
    keys: list[tuple[int, int, int]]
    levels: list[float]  # noise levels in 0..1
    concept: Tensor  # int64 [B]
    weight: Tensor  # [B]


@dataclass(frozen=True)
class Work:
    """One optimizer step: micro-batches, and how many samples each concept has in all of them."""

    step: int
    batches: list[Batch]
    counts: Tensor  # [N], over all ranks
    drawn: list[int]  # concepts whose word stands in a caption of this step


@dataclass(frozen=True)
class Noisy:
    """A noised latent and what the model should say about it."""

    x_t: Tensor  # [B,C,h,w]
    target: Tensor  # [B,C,h,w]
    t: Tensor  # int64 [B]
    snr: Tensor  # signal-to-noise ratio [B]
    velocity: bool  # the target is a velocity, not the noise


@dataclass
class Embedding:
    """A learned word: float32 rows per text encoder, and where they come from."""

    token: str
    vectors: dict[str, Tensor]  # encoder name -> float32 [n,W]
    metadata: dict[str, str] = field(default_factory=dict)
