"""Make micro-batches on the device out of draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Literal, Protocol

import torch

from neonym.data.latent_cache import Latents
from neonym.data.latent_keys import size_conditioning
from neonym.seeds import dice
from neonym.types import Batch, Conditions, Draw, Encoded, Work

KNOWN = 1 << 15  # captions whose ids are cached: more than a dataset has, unless they change with each draw


class Plan(Protocol):
    """A plan of which samples each step has."""

    def draws(self, step: int) -> list[Draw]: ...


class Loader:
    """A loader of the work of each step for this rank: micro-batches of one concept and one size.

    Captions are tokenized once for each program that they are read as. Every rank gets its share of each concept. A step trains a concept only if one of its
    captions contains the word (`words` are in lower case), which is not so with only regularisation images.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        latents: Latents,
        tokenize: Callable[[str, bool], Encoded],
        stack: Callable[[Sequence[Encoded], torch.device], Encoded],
        words: Sequence[str],
        device: torch.device,
        micro_batch: int | None,
        step_share: Sequence[int],
        rank: int = 0,
        ranks: int = 1,
        guidance: float | None = None,
        tokenize_as: Literal["mix", "comfyui", "diffusers"] = "diffusers",
    ):
        self.plans, self.latents, self.device = plans, latents, device
        self.tokenize, self.stack, self.words = lru_cache(KNOWN)(tokenize), stack, words
        self.micro_batch, self.step_share = micro_batch, step_share
        self.rank, self.ranks, self.guidance = rank, ranks, guidance
        self.tokenize_as = tokenize_as

    def steps(self, first: int, end: int) -> Iterator[Work]:
        """Yield the work of steps `first` to `end - 1`."""
        for step in range(first, end):
            yield self.work(step)

    def work(self, step: int) -> Work:
        """Return this rank's work of one step."""
        batches, counts, drawn = [], torch.zeros(len(self.plans)), []
        for concept, plan in enumerate(self.plans):
            draws = plan.draws(step)
            counts[concept] = len(draws)
            drawn += [concept] * any(self.words[concept] in self.encoded(d).words for d in draws)
            size = self.micro_batch or self.step_share[draws[0].record.dataset]
            batches += [self.batch(part, concept) for part in share_of(draws, size, self.rank, self.ranks)]
        return Work(step, batches, counts.to(self.device), drawn)

    def batch(self, draws: Sequence[Draw], concept: int) -> Batch:
        """Return a micro-batch of draws of one size and one concept, on the device."""
        moments = torch.stack([self.latents[d.record.path, d.view] for d in draws])  # [B,2C,h,w]
        mask = None
        if any(d.record.masked for d in draws):
            size = (moments.shape[2], moments.shape[3])
            mask = torch.stack([self.latents.mask(d.record, d.view, size) for d in draws]).to(self.device)  # [B,1,h,w]
        return Batch(
            moments=moments.to(self.device),
            text=self.stack([self.encoded(d) for d in draws], self.device),
            keys=[d.key for d in draws],
            levels=[d.level for d in draws],
            concept=torch.full((len(draws),), concept, device=self.device),
            weight=torch.tensor([d.weight for d in draws], device=self.device),
            mask=mask,
            conditions=self.conditions(draws),
        )

    def encoded(self, draw: Draw) -> Encoded:
        """Return the tokenized caption of a draw. In a mix, half of the draws are read as ComfyUI reads them."""
        mixed = self.tokenize_as == "mix" and dice(*draw.key, "tokenize").random() < 0.5
        return self.tokenize(draw.caption, mixed or self.tokenize_as == "comfyui")

    def conditions(self, draws: Sequence[Draw]) -> Conditions:
        """Return what the denoiser reads of draws beside their text, on the device."""
        sizes = [size_conditioning(d.record.size, d.view) for d in draws]
        guidance = None if self.guidance is None else torch.full((len(draws),), self.guidance, device=self.device)
        return Conditions(torch.tensor(sizes, dtype=torch.float32, device=self.device), guidance)


def share_of(draws: Sequence[Draw], size: int, rank: int, ranks: int) -> list[Sequence[Draw]]:
    """Return this rank's micro-batches of at most `size` samples.

    Whole micro-batches are distributed if every rank gets the same number: sums over other numbers of samples round
    differently, so only then do several processes compute exactly what one does. Otherwise, samples are distributed.
    """
    whole = parts(draws, size)
    return whole[rank::ranks] if len(whole) % ranks == 0 else parts(draws[rank::ranks], size)


def parts(draws: Sequence[Draw], size: int) -> list[Sequence[Draw]]:
    """Split draws, in order, into parts of at most `size`."""
    return [draws[i : i + size] for i in range(0, len(draws), size)]
