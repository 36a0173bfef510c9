"""The values that pass between the parts of a run, with the shapes of their tensors.

Letters in shapes: B samples, N concepts, C latent channels, h,w latent size (H,W pixels), K chunks of text, L ids per
chunk, S text positions, D text width, n rows of a concept, W width of an encoder's token table, V size of its
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Size = tuple[int, int]  # (width, height), in Pillow's order


@dataclass(frozen=True)
class CaptionRules:
    """A frozen record of the rules that turn a caption into the text that is trained on."""

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
    warmup_steps: float = 0.0  # below 1: a share of the training
    weighted: bool = False  # (text:1.3) is emphasis
    templates: tuple[str, ...] = ()  # sentences that are used instead of the caption


@dataclass(frozen=True)
class ImageRules:
    """A frozen record of the rules that turn an image into pixels.

    An image with a random rule other than `flip` is encoded again each time it is used.
    """

    background: tuple[int, int, int] = (255, 255, 255)  # the colour behind transparent pixels
    interpolation: str | None = None
    flip: bool = False
    random_crop: bool = False
    color: bool = False
    face_crop: tuple[float, float] | None = None
    alpha_mask: bool = False

    @property
    def changes(self) -> bool:
        """Whether two draws of the image can differ by more than mirroring."""
        return self.random_crop or self.color or self.face_crop is not None


@dataclass(frozen=True)
class Fit:
    """A frozen record of how an image is fitted to its bucket.

    The image is scaled to `resized`, then cropped to `crop` (left, top, right, bottom).
    """

    bucket: Size
    resized: Size
    crop: tuple[int, int, int, int]


@dataclass(frozen=True)
class View:
    """A frozen record of everything that decides the pixels of one draw of an image."""

    fit: Fit
    flipped: bool = False
    hue: float = 0.0  # shift, in turns of the colour wheel
    gamma: float = 1.0
    background: tuple[int, int, int] = (255, 255, 255)
    interpolation: str | None = None


@dataclass(frozen=True)
class ImageRecord:
    """A frozen record of one image of a dataset, with its caption, its bucket and the rules that apply to it."""

    path: Path
    caption: str
    size: Size  # after EXIF orientation
    fit: Fit
    concept: int  # index into the concepts
    dataset: int  # index into the datasets
    repeats: int
    is_reg: bool
    rules: CaptionRules
    content: str = ""  # SHA-256 of the file, and of its mask if it has one
    image_rules: ImageRules = ImageRules()
    mask: Path | None = None  # image whose red channel weights the loss
    unused_lines: str = ""  # lines of the caption after the first, unless they are used

    @property
    def masked(self) -> bool:
        """Whether a mask, or the image's opacity, weights the loss."""
        return self.mask is not None or self.image_rules.alpha_mask


@dataclass(frozen=True)
class Draw:
    """A frozen record of one sample of one step. `key` seeds every random number that is drawn for it."""

    record: ImageRecord
    caption: str
    view: View
    key: tuple[int, int, int]  # (concept seed, step, slot)
    level: float  # noise level in [0, 1), which decides the timestep
    weight: float


@dataclass(frozen=True)
class Encoded:
    """A tokenized caption, or a batch of captions, in which every shape begins with B."""

    ids: dict[str, Tensor]  # per encoder, int64 [K,L]; an id >= V reads a learned row
    emphasis: dict[str, Tensor] | None = None  # per encoder, [K,L]: the emphasis of each id; None: no emphasis
    words: frozenset[str] = frozenset()  # the new words in it, in lower case
    masks: dict[str, Tensor] = field(default_factory=dict)  # per encoder that reads one, bool [K,L]: no padding
    # Per encoder, the ids of each caption in a chunk, B numbers: a batch is as long as the longest of them
    lengths: dict[str, list[int]] = field(default_factory=dict)
    # Per encoder with a mask, the ids of each caption that are no padding, B numbers; empty if only the device knows
    counts: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Conditions:
    """A frozen record of what a denoiser reads beside the time and the text. A family ignores what its models do not read."""

    sizes: Tensor | None = None  # [B,6] original height and width, crop from top and left, target height and width
    guidance: Tensor | None = None  # [B] the guidance scale that a distilled model imitates
    skipped_blocks: tuple[int, ...] = ()  # blocks of the denoiser that all samples skip

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Conditions:
        """Return the conditions with each tensor replaced by what a function returns for it."""
        sizes, guidance = (None if own is None else function(own) for own in (self.sizes, self.guidance))
        return replace(self, sizes=sizes, guidance=guidance)


NO_CONDITIONS = Conditions()


@dataclass(frozen=True)
class Batch:
    """A micro-batch: samples of the same size that go through the model together."""

    moments: Tensor  # [B,2C,h,w] VAE mean and log-variance, on the host while a word is trained
    text: Encoded
    keys: list[tuple[int, int, int]]
    levels: list[float]  # noise levels in [0, 1)
    concept: Tensor  # int64 [B], index into the words that learn together
    weight: Tensor  # [B]
    mask: Tensor | None = None  # [B,1,h,w] loss weight of each latent pixel; None: all are equal
    conditions: Conditions = NO_CONDITIONS


@dataclass(frozen=True)
class TextCond:
    """Encoded text: the states that the denoiser attends to and, for some models, one pooled vector."""

    sequence: Tensor  # [B,S,D]
    pooled: Tensor | None = None  # [B,P]
    mask: Tensor | None = None  # bool [B,S]: which states are read; None: all of them
    lengths: list[int] | None = None  # B numbers, how many states are read; None: only the mask tells


@dataclass(frozen=True)
class Sample:
    """One sample of a step, read and tokenized."""

    draw: Draw
    moments: Tensor  # [2C,h,w]
    text: Encoded
    mask: Tensor | None  # [1,h,w]
    sizes: tuple[int, ...]  # 6 numbers, see `Conditions`
    guidance: float | None


@dataclass(frozen=True)
class Work:
    """The work of one optimizer step of one word: this process's samples, all of one size."""

    step: int
    samples: list[Sample]
    at_once: int  # the most samples that go through the model together
    count: int  # samples over all processes
    trains: bool  # whether the word is in a caption of this step, on any process


@dataclass(frozen=True)
class Noisy:
    """Noised latents and what the model should predict for them."""

    x_t: Tensor  # [B,C,h,w]
    target: Tensor  # [B,C,h,w]
    t: Tensor  # [B] timesteps, 0 to 1000 (pure noise)
    snr: Tensor  # [B] signal-to-noise ratio
    velocity: bool  # whether the target is a velocity, not the noise


@dataclass
class Embedding:
    """A learned word: its float32 rows for each text encoder, and the metadata of its file."""

    token: str
    vectors: dict[str, Tensor]  # encoder name -> float32 [n,W]
    metadata: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()  # names of tensors in its file that do not belong to the word
    names: dict[str, str] = field(default_factory=dict)  # encoder name -> name of its tensor in the file, if it has one
