"""Describe datasets and their subsets, as settings and dataset files define them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from neonym.data.buckets import BucketRules
from neonym.types import CaptionRules, ImageRules


@dataclass(frozen=True)
class Folder:
    """One subset: a folder of images or a metadata file, and how its images are used.

    Raises ValueError if it has neither.
    """

    path: Path | None
    concept: int
    repeats: int = 1
    is_reg: bool = False
    caption_extension: str | None = None
    class_tokens: str | None = None
    metadata: Path | None = None
    masks: Path | None = None
    rules: CaptionRules = field(default_factory=CaptionRules)
    image_rules: ImageRules = field(default_factory=ImageRules)

    def __post_init__(self) -> None:
        if self.path is None and self.metadata is None:
            raise ValueError("a subset needs a folder of images or a metadata file")

    @property
    def place(self) -> Path:
        """The path that messages name, which also identifies the subset within its dataset."""
        return self.metadata or self.path or Path()


@dataclass(frozen=True)
class Dataset:
    """A dataset: subsets that share a batch size, buckets and the share of held-out images."""

    folders: tuple[Folder, ...]
    batch_size: int
    buckets: BucketRules
    held_out_share: float = 0.0
    held_out_seed: int = 0
