"""Make micro-batches on the device out of draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, Protocol

import torch
from torch import Tensor

from neonym.data.latent_cache import Latents
from neonym.data.latent_keys import size_conditioning
from neonym.io.transfer import sent
from neonym.seeds import dice
from neonym.types import Batch, Conditions, Draw, Encoded, Sample, Work

KNOWN = 1 << 15  # captions whose ids are cached: more than a dataset has, unless they change with each draw
Stack = Callable[[Sequence[Encoded], torch.device], Encoded]


class Plan(Protocol):
    """A plan of which samples each step has."""

    def draws(self, step: int) -> list[Draw]: ...


class Loader:
    """A loader of the samples of one word in each step, for this rank.

    Captions are tokenized once for each program that they are read as. A step trains the word only if one of its
    captions contains it (`word` is in lower case), which is not so with only regularisation images.
    """

    def __init__(
        self,
        plan: Plan,
        latents: Latents,
        tokenize: Callable[[str, bool], Encoded],
        stack: Stack,
        word: str,
        device: torch.device,
        micro_batch: int | None,
        step_share: Sequence[int],
        rank: int = 0,
        ranks: int = 1,
        guidance: float | None = None,
        tokenize_as: Literal["mix", "comfyui", "diffusers"] = "diffusers",
    ):
        self.plan, self.latents, self.device = plan, latents, device
        self.tokenize, self.stack, self.word = lru_cache(KNOWN)(tokenize), stack, word
        self.micro_batch, self.step_share = micro_batch, step_share
        self.rank, self.ranks, self.guidance = rank, ranks, guidance
        self.tokenize_as = tokenize_as

    def work(self, step: int) -> Work:
        """Return this rank's work of one step. Raises DataError for an image that can no longer be read."""
        draws = self.plan.draws(step)
        trains = any(self.word in self.encoded(draw).words for draw in draws)
        at_once = self.micro_batch or self.step_share[draws[0].record.dataset]
        own = [draw for part in share_of(draws, at_once, self.rank, self.ranks) for draw in part]
        return Work(step, [self.sample(draw) for draw in own], at_once, len(draws), trains)

    def sample(self, draw: Draw) -> Sample:
        """Return a draw with its image as moments, its caption as ids, and its mask if it has one."""
        moments, mask = self.latents[draw.record.path, draw.view], None  # [2C,h,w]
        if draw.record.masked:
            mask = self.latents.mask(draw.record, draw.view, (moments.shape[1], moments.shape[2]))  # [1,h,w]
        sizes = size_conditioning(draw.record.size, draw.view)
        return Sample(draw, moments, self.encoded(draw), mask, tuple(sizes), self.guidance)

    def encoded(self, draw: Draw) -> Encoded:
        """Return the tokenized caption of a draw. In a mix, half of the draws are read as ComfyUI reads them."""
        mixed = self.tokenize_as == "mix" and dice(*draw.key, "tokenize").random() < 0.5
        return self.tokenize(draw.caption, mixed or self.tokenize_as == "comfyui")

    def batch(self, draws: Sequence[Draw]) -> Batch:
        """Return a micro-batch of draws of one size, on the device."""
        return collate([self.sample(draw) for draw in draws], [0] * len(draws), self.stack, self.device)


def collate(samples: Sequence[Sample], concepts: Sequence[int], stack: Stack, device: torch.device) -> Batch:
    """Return a micro-batch of samples of one size, on the device. `concepts` are the indices of their words."""
    draws, mask, guidance = [sample.draw for sample in samples], None, None
    if any(sample.mask is not None for sample in samples):
        mask = sent(torch.stack([whole_mask(sample) for sample in samples]), device)  # [B,1,h,w]
    if samples[0].guidance is not None:
        guidance = sent(torch.tensor([sample.guidance for sample in samples]), device)
    sizes = sent(torch.tensor([sample.sizes for sample in samples], dtype=torch.float32), device)
    return Batch(
        moments=torch.stack([sample.moments for sample in samples]),
        text=stack([sample.text for sample in samples], device),
        keys=[draw.key for draw in draws],
        levels=[draw.level for draw in draws],
        concept=sent(torch.tensor(concepts), device),
        weight=sent(torch.tensor([draw.weight for draw in draws]), device),
        mask=mask,
        conditions=Conditions(sizes, guidance),
    )


def whole_mask(sample: Sample) -> Tensor:
    """Return the mask of a sample, [1,h,w]: ones if it has none."""
    return torch.ones_like(sample.moments[:1]) if sample.mask is None else sample.mask


def share_of(draws: Sequence[Draw], size: int, rank: int, ranks: int) -> list[Sequence[Draw]]:
    """Return this rank's micro-batches of at most `size` samples.

    Whole micro-batches are distributed if every rank gets the same number: sums over other numbers of samples round
    differently, so only then do several processes compute exactly what one does. Otherwise, samples are distributed.
    """
    whole = parts(draws, size)
    return whole[rank::ranks] if len(whole) % ranks == 0 else parts(draws[rank::ranks], size)


def parts(items: Sequence, size: int) -> list[Sequence]:
    """Split a sequence, in order, into parts of at most `size`."""
    return [items[i : i + size] for i in range(0, len(items), size)]
