"""The values that flow, with their shapes.

Letters: B samples, N concepts, C latent channels, h,w latent size (H,W pixels), K chunks of text, L ids a chunk,
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

    word: str = ""  # the new word: never dropped
    prefix: str | None = None
    suffix: str | None = None
    separator: str = ","
    shuffle: bool = False
    keep_tokens: int = 0
    keep_separator: str = ""
    secondary_separator: str | None = None
    wildcards: bool = False
    dropout: float = 0.0
    drop_every_n_epochs: int = 0
    tag_dropout: float = 0.0
    warmup_min: int = 1
    warmup_steps: float = 0.0  # below 1: share of the training
    weighted: bool = False  # (text:1.3) is a weight
    templates: tuple[str, ...] = ()  # sentences that are used instead


@dataclass(frozen=True)
class ImageRules:
    """How a picture becomes pixels (dataset.md section 5); with any of the random ones it is encoded anew each time."""

    background: tuple[int, int, int] = (255, 255, 255)  # what transparent pixels are laid on
    interpolation: str | None = None
    flip: bool = False
    random_crop: bool = False
    color: bool = False
    face_crop: tuple[float, float] | None = None
    alpha_mask: bool = False

    @property
    def changes(self) -> bool:
        """Whether two draws can differ by more than the mirror."""
        return self.random_crop or self.color or self.face_crop is not None


@dataclass(frozen=True)
class Fit:
    """How a picture is brought to its bucket: scaled to `resized`, then cut to `crop` (left, top, right, bottom)."""

    bucket: Size
    resized: Size
    crop: tuple[int, int, int, int]


@dataclass(frozen=True)
class View:
    """Everything that decides the pixels of one draw of a picture."""

    fit: Fit
    flipped: bool = False
    hue: float = 0.0  # shift in turns of the colour circle
    gamma: float = 1.0
    background: tuple[int, int, int] = (255, 255, 255)
    interpolation: str | None = None


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
    rules: CaptionRules
    content: str = ""  # SHA-256 of the file, and of its mask's
    image_rules: ImageRules = ImageRules()
    mask: Path | None = None  # picture whose red channel weighs the loss
    further: str = ""  # lines of the stored caption that are not used

    @property
    def masked(self) -> bool:
        return self.mask is not None or self.image_rules.alpha_mask


@dataclass(frozen=True)
class Draw:
    """One sample of one step. `key` seeds every random draw made for it."""

    record: ImageRecord
    caption: str
    view: View
    key: tuple[int, int, int]  # (concept seed, step, slot)
    level: float  # noise level, 0 to 1 (excluded): which timestep
    weight: float


@dataclass(frozen=True)
class Encoded:
    """A tokenized caption, or a batch of captions (B in front of every shape)."""

    ids: dict[str, Tensor]  # per encoder int64 [K,L]; an id >= V reads a learned row
    emphasis: dict[str, Tensor] | None = None  # per encoder [K,L] the emphasis of each id; None: there is none
    words: frozenset[str] = frozenset()  # the new words that stand in it, in lower case


@dataclass(frozen=True)
class Batch:
    """Samples of one size that go through the model together."""

    moments: Tensor  # [B,2C,h,w] VAE mean and log-variance
    text: Encoded
    keys: list[tuple[int, int, int]]
    levels: list[float]  # noise levels in 0..1
    concept: Tensor  # int64 [B]
    weight: Tensor  # [B]
    mask: Tensor | None = None  # [B,1,h,w] weight of each place, or None if all count the same
    sizes: Tensor | None = None  # [B,6] original height and width, crop from top and left, target height and width


@dataclass(frozen=True)
class TextCond:
    """Encoded text: the states that the denoiser attends to, and for some models a summary of all of them."""

    sequence: Tensor  # [B,S,D]
    pooled: Tensor | None = None  # [B,P]
    mask: Tensor | None = None  # bool [B,S]: which states belong to the text; None: all


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
    t: Tensor  # [B]: timesteps, in thousandths of the way to pure noise
    snr: Tensor  # signal-to-noise ratio [B]
    velocity: bool  # the target is a velocity, not the noise


@dataclass
class Embedding:
    """A learned word: float32 rows per text encoder, and where they come from."""

    token: str
    vectors: dict[str, Tensor]  # encoder name -> float32 [n,W]
    metadata: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()  # tensors of its file that are no part of the word
