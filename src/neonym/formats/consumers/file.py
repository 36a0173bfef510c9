"""Define what the rules of programs are about: an embedding file as they see it, and which files a program opens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from neonym.formats.content import FileContent, tensors_in
from neonym.formats.tensors import BUNDLE

SECOND_WIDTH = 1280  # of SDXL's second encoder
IMAGES = ("png", "webp", "jxl", "avif")
READS = "reads it"
NO_TABLE = "refuses it: no table of vectors"


@dataclass(frozen=True)
class File:
    """An embedding file and its name, with the properties that the rules need."""

    content: FileContent
    name: str  # the file name without extension, which is the word in most programs

    @property
    def top(self) -> dict[str, Tensor]:
        """The tensors at the top level of the file."""
        return {name: value for name, value in self.content.table.items() if isinstance(value, Tensor)}

    @property
    def params(self) -> dict[str, Tensor] | None:
        """The tensors under the web UI's key `string_to_param`, or None if there is none."""
        return None if self.content.inner is None else tensors_in(self.content.inner)

    @property
    def pair(self) -> bool:
        """Whether the file has a tensor for each of SDXL's encoders, named as sd-scripts names them."""
        return "clip_l" in self.top and "clip_g" in self.top

    @property
    def parameters(self) -> bool:
        """Whether a program needs torch's parameter classes to read the file."""
        inner = self.content.inner
        values = [*self.content.table.values(), *(inner.values() if isinstance(inner, Mapping) else ())]
        return self.parameter_dict or any(isinstance(v, torch.nn.Parameter) for v in values)

    @property
    def parameter_dict(self) -> bool:
        """Whether `string_to_param` is a ParameterDict."""
        return isinstance(self.content.inner, torch.nn.ParameterDict)

    @property
    def rows(self) -> list[Tensor]:
        """All tensors that may hold vectors."""
        return list((self.top if self.params is None else self.params).values())

    @property
    def widths(self) -> set[int]:
        """The widths of all tensors that may hold vectors."""
        return {rows.shape[-1] for rows in self.rows if rows.ndim}

    @property
    def unequal(self) -> bool:
        """Whether SDXL's encoders have different numbers of vectors."""
        return self.pair and self.top["clip_l"].shape[:1] != self.top["clip_g"].shape[:1]

    @property
    def second_alone(self) -> bool:
        """Whether the file has vectors only for SDXL's second encoder."""
        return self.widths == {SECOND_WIDTH}

    @property
    def bundled(self) -> list[str]:
        """The names of the tensors that are words in a LoRA file, in the notation that several programs read."""
        return [name for name in self.top if name.startswith(BUNDLE)]


@dataclass(frozen=True)
class Program:
    """A program that uses embedding files: which files it opens, and what it does with them."""

    rule: Callable[[File], str]
    endings: tuple[str, ...] = ()  # the extensions that it opens; empty: any
    by_content: bool = False  # it recognises files by their content
    bundles: bool = False  # it reads the words in a LoRA file together with the LoRA
    bundles_as_words: bool = False  # it reads a word in a LoRA file as if the file were an embedding
    any_width: bool = False  # its rule decides about vectors of any width
    images: bool = False
    tops: tuple[str, ...] = ()  # the top levels that it reads besides a table
