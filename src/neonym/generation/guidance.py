"""Classifier-free guidance (Ho & Salimans 2021) round a model, so that diffusers' pipelines see a plain U-Net.

The pipeline steps through the noise levels; what is predicted at each is said here: which texts, how they are weighed
against each other, each picture with its own scale. That is one path for every family and every pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neonym.models.model import Model
from neonym.types import TextCond


@dataclass(frozen=True)
class Branch:
    """One text of each picture."""

    text: TextCond
    sizes: Tensor | None = None  # [B,6], for SDXL

    def at(self, i: int) -> Branch:
        """Of one picture."""
        pooled = None if self.text.pooled is None else self.text.pooled[i : i + 1]
        return Branch(
            TextCond(self.text.sequence[i : i + 1], pooled), None if self.sizes is None else self.sizes[i : i + 1]
        )


@dataclass(frozen=True)
class Guidance:
    """What a batch is drawn towards and away from.

    `scale` [B,1,1,1] towards the prompt. Without `empty`, away from the negative prompt as much; with it, away from
    the empty prompt, and by `negative_scale` [B,1,1,1] from the negative one. Without `negative` there is no guidance.
    """

    prompt: Branch
    negative: Branch | None = None
    scale: Tensor | None = None
    empty: Branch | None = None
    negative_scale: Tensor | None = None
    rescale: float = 0.0

    @property
    def branches(self) -> list[Branch]:
        return [branch for branch in (self.empty, self.negative, self.prompt) if branch is not None]

    def combine(self, guesses: Sequence[Tensor]) -> Tensor:
        """One prediction [B,C,h,w] of each branch, in their order -> the guided one."""
        prompt = guesses[-1]
        if self.negative is None or self.scale is None:
            return prompt
        base = guesses[0]
        guided = base + self.scale * (prompt - base)
        if self.empty is not None and self.negative_scale is not None:
            guided = guided - self.negative_scale * (guesses[1] - base)
        if self.rescale > 0:  # Lin et al. 2023, section 3.4
            contrast = prompt.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)
            guided = self.rescale * guided * contrast + (1 - self.rescale) * guided
        return guided


class GuidedUNet(nn.Module):
    """Takes the place of the U-Net in a pipeline that guides nothing itself."""

    def __init__(self, model: Any, at_once: bool = False):
        """`at_once`: predict for all pictures of a batch together whatever comes of it, as is done on a GPU always."""
        super().__init__()
        self.at_once = at_once or model.device.type != "cpu"
        # whether a batch gives what its pictures alone give: by its shape, the number of texts and their length
        self.alike: dict[tuple[torch.Size, int, int], bool] = {}
        self.unet, self._model = model.denoiser, [model]  # in a list: no second registration of its parts
        self.guidance: Guidance | None = None

    @property
    def model(self) -> Model:
        return self._model[0]

    @property
    def config(self) -> Any:
        return self.unet.config

    @property
    def add_embedding(self) -> Any:
        return self.unet.add_embedding

    @property
    def dtype(self) -> torch.dtype:
        """Of what it takes and gives, so that pipelines draw noise and step in float32 whatever the model's precision is:
        a seed has the same noise in all of them, and no step is rounded to half precision.
        """
        return torch.float32

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def forward(self, sample: Tensor, t: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        """[B,C,h,w], one timestep -> ([B,C,h,w],). What the pipeline says of the text is passed over."""
        assert self.guidance is not None
        branches, t = self.guidance.branches, t.to(sample.device)
        case = (sample.shape, len(branches), branches[0].text.sequence.shape[1])
        if self.at_once or len(sample) == 1 or self.alike.get(case):
            guesses = self.guess(sample, t, branches).chunk(len(branches))
        else:  # one picture at a time: no sum is rounded otherwise because of the neighbours
            each = [self.guess(sample[i : i + 1], t, [b.at(i) for b in branches]) for i in range(len(sample))]
            guesses = torch.stack(each, dim=1).unbind()
            if case not in self.alike:
                self.alike[case] = torch.equal(torch.cat(guesses), self.guess(sample, t, branches))
        return (self.guidance.combine(guesses).to(sample.dtype),)

    def guess(self, sample: Tensor, t: Tensor, branches: Sequence[Branch]) -> Tensor:
        """Predictions with each text, one after the other. [B,C,h,w] -> [branches*B,C,h,w]"""
        text, sizes = joined_text([b.text for b in branches]), joined_sizes([b.sizes for b in branches])
        return self.model.predict(torch.cat([sample] * len(branches)), t, text, sizes)


def joined_text(texts: Sequence[TextCond]) -> TextCond:
    """[B,S,D] each -> [n*B,S,D]"""
    pooled = [text.pooled for text in texts if text.pooled is not None]
    return TextCond(torch.cat([text.sequence for text in texts]), torch.cat(pooled) if pooled else None)


def joined_sizes(sizes: Sequence[Tensor | None]) -> Tensor | None:
    known = [size for size in sizes if size is not None]
    return torch.cat(known) if known else None
