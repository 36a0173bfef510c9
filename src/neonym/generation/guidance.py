"""Classifier-free guidance (Ho & Salimans 2021): the texts that a batch is predicted with, and their combination.

Skip-layer guidance adds the difference that some blocks of the denoiser make, in a range of the steps. All families and
samplers use this code. Each image has its own guidance scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from neonym.generation.graphs import PredictionGraphs
from neonym.models.model import Model
from neonym.types import NO_CONDITIONS, Conditions, TextCond


@dataclass(frozen=True)
class Branch:
    """One encoded text per image, with the other conditions of the images."""

    text: TextCond
    conditions: Conditions = NO_CONDITIONS

    def row(self, i: int) -> Branch:
        """Return the branch of image `i` alone."""
        return Branch(
            map_texts(lambda tensors: tensors[0][i : i + 1], [self.text]),
            self.conditions.mapped(lambda own: own[i : i + 1]),
        )


@dataclass(frozen=True)
class Done:
    """The number of steps that are done, of all the steps from pure noise."""

    steps: int
    of: int


@dataclass(frozen=True)
class SkipLayers:
    """Skip-layer guidance: away from what the model predicts without some of its blocks, in a range of the steps.

    Stability AI recommends the numbers for Stable Diffusion 3.5 medium.
    """

    prompt: Branch  # with the blocks that are skipped in its conditions
    scale: float = 2.8
    start: float = 0.01  # shares of the steps
    stop: float = 0.2

    def applies(self, done: Done) -> bool:
        """Return whether it guides the step after those that are done."""
        return done.of * self.start < done.steps < done.of * self.stop


@dataclass(frozen=True)
class Guidance:
    """The texts that a batch is guided towards and away from.

    `scale` [B,1,1,1] guides towards the prompt and away from the negative prompt or, if there is an `empty` branch,
    from the empty prompt. In the latter case, `negative_scale` [B,1,1,1] guides away from the negative prompt. Without
    `negative` there is no guidance, and none with `skip`, whose branch is predicted before the prompt's.
    """

    prompt: Branch
    negative: Branch | None = None
    scale: Tensor | None = None
    empty: Branch | None = None
    negative_scale: Tensor | None = None
    rescale: float = 0.0
    skip: SkipLayers | None = None

    def at(self, done: Done) -> Guidance:
        """Return the guidance of the step after those that are done."""
        return self if self.skip is None or self.skip.applies(done) else replace(self, skip=None)

    @property
    def branches(self) -> list[Branch]:
        """The branches in the order in which they are predicted; the prompt is last."""
        skipping = self.skip.prompt if self.skip else None
        return [branch for branch in (self.empty, self.negative, skipping, self.prompt) if branch is not None]

    def combine(self, predictions: Sequence[Tensor]) -> Tensor:
        """Return the guided prediction from one prediction [B,C,h,w] of each branch, in their order.

        `rescale` is the share of the result that is scaled back to the contrast of the unguided prediction (Lin et al.
        2023, section 3.4).
        """
        prompt = predictions[-1]
        if self.negative is None or self.scale is None:
            return prompt
        base = predictions[0]
        guided = base + self.scale * (prompt - base)
        if self.empty is not None and self.negative_scale is not None:
            guided = guided - self.negative_scale * (predictions[1] - base)
        if self.skip is not None:
            guided = guided + self.skip.scale * (prompt - predictions[-2])
        if self.rescale > 0:
            contrast = prompt.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)
            guided = self.rescale * guided * contrast + (1 - self.rescale) * guided
        return guided


class GuidedModel:
    """A model whose guided prediction for an image does not depend on the images beside it.

    On a CPU, a batch is predicted together only if that is batch-invariant: if it gives, bit for bit, what its images
    give alone. This is tested once per shape. `at_once` predicts the batch together in any case, as a GPU always does.
    """

    def __init__(self, model: Model, at_once: bool = False, graphs: PredictionGraphs | None = None):
        self.prediction = model.predict if graphs is None else partial(graphs, model)
        self.at_once = at_once or model.device.type != "cpu"
        # By shape of the latents, number of branches, length of the text
        self.batch_invariant: dict[tuple[object, ...], bool] = {}

    def predict(self, guidance: Guidance, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the guided prediction for latents [B,C,h,w] at one timestep, [B,C,h,w] in float32."""
        branches, t = guidance.branches, t.to(x_t.device)
        case = (x_t.shape, *((own.text.sequence.shape[1], own.conditions.skipped_blocks) for own in branches))
        if self.at_once or len(x_t) == 1 or self.batch_invariant.get(case):
            return guidance.combine(self.branch_predictions(branches, x_t, t).chunk(len(branches)))
        rows = [self.branch_predictions([b.row(i) for b in branches], x_t[i : i + 1], t) for i in range(len(x_t))]
        predictions = torch.stack(rows, dim=1)  # [branches,B,C,h,w]
        if case not in self.batch_invariant:
            together = self.branch_predictions(branches, x_t, t)
            self.batch_invariant[case] = torch.equal(predictions.flatten(0, 1), together)
        return guidance.combine(predictions.unbind())

    def branch_predictions(self, branches: Sequence[Branch], x_t: Tensor, t: Tensor) -> Tensor:
        """Return the predictions for latents [B,C,h,w] with one branch after the other, [branches*B,C,h,w].

        Those with all blocks are predicted together.
        """
        whole = [branch for branch in branches if not branch.conditions.skipped_blocks]
        text = concatenate_texts([branch.text for branch in whole])
        conditions = concatenate_conditions([branch.conditions for branch in whole])
        predicted = self.prediction(torch.cat([x_t] * len(whole)), t, text, conditions)
        if len(whole) == len(branches):
            return predicted
        rest = iter(predicted.chunk(len(whole)))
        return torch.cat(
            [
                self.prediction(x_t, t, own.text, own.conditions) if own.conditions.skipped_blocks else next(rest)
                for own in branches
            ]
        )


def concatenate_conditions(conditions: Sequence[Conditions]) -> Conditions:
    """Return the conditions of n batches as those of one batch."""
    sizes, guidance = (
        [own for own in each if own is not None]
        for each in zip(*((c.sizes, c.guidance) for c in conditions), strict=True)
    )
    return Conditions(torch.cat(sizes) if sizes else None, torch.cat(guidance) if guidance else None)


def concatenate_texts(texts: Sequence[TextCond]) -> TextCond:
    """Return n encoded texts [B,S,D] as one batch [n*B,S,D].

    Texts of unlike length are padded to the longest of them, with masks that tell their lengths.
    """
    lengths = [text.sequence.shape[1] for text in texts]
    if all(text.mask is None for text in texts) and len(set(lengths)) == 1:
        return map_texts(torch.cat, texts)
    return map_texts(
        torch.cat, [padded_text(text, max(lengths) - own) for text, own in zip(texts, lengths, strict=True)]
    )


def padded_text(text: TextCond, count: int) -> TextCond:
    """Return a text with `count` states of zeros behind it that its mask leaves out."""
    whole = torch.ones(text.sequence.shape[:2], dtype=torch.bool, device=text.sequence.device)  # [B,S]
    mask = whole if text.mask is None else text.mask
    return replace(text, sequence=pad(text.sequence, (0, 0, 0, count)), mask=pad(mask, (0, count)))


def map_texts(function: Callable[[list[Tensor]], Tensor], texts: Sequence[TextCond]) -> TextCond:
    """Return the text whose tensors are `function` of the corresponding tensors of `texts`, or None if absent."""

    def optional(tensors: Sequence[Tensor | None]) -> Tensor | None:
        known = [tensor for tensor in tensors if tensor is not None]
        return function(known) if known else None

    return TextCond(
        function([text.sequence for text in texts]),
        optional([text.pooled for text in texts]),
        optional([text.mask for text in texts]),
    )
