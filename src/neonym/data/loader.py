"""From draws to micro-batches on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Protocol

import torch

from neonym.data.latent_cache import Latents
from neonym.data.latent_keys import told_sizes
from neonym.types import Batch, Draw, Encoded, Work

KNOWN = 1 << 15  # captions whose ids are kept: more than there are, unless they change from draw to draw


class Plan(Protocol):
    """Anything that says which samples a step has."""

    def draws(self, step: int) -> list[Draw]: ...


class Loader:
    """Yields the work of each step for this rank: micro-batches of one concept and one size.

    A caption is tokenized once. Every rank has its share of each concept. A concept whose word (one of `words`, in lower
    case) stands in no caption of a step, as in one of regularisation images only, is not among those drawn.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        latents: Latents,
        tokenize: Callable[[str], Encoded],
        stack: Callable[[Sequence[Encoded], torch.device], Encoded],
        words: Sequence[str],
        device: torch.device,
        micro_batch: int | None,
        step_share: Sequence[int],
        rank: int = 0,
        ranks: int = 1,
    ):
        self.plans, self.latents, self.device = plans, latents, device
        self.tokenize, self.stack, self.words = lru_cache(KNOWN)(tokenize), stack, words
        self.micro_batch, self.step_share = micro_batch, step_share
        self.rank, self.ranks = rank, ranks

    def steps(self, first: int, end: int) -> Iterator[Work]:
        """The work of steps `first` to `end - 1`."""
        for step in range(first, end):
            yield self.work(step)

    def work(self, step: int) -> Work:
        batches, counts, drawn = [], torch.zeros(len(self.plans)), []
        for concept, plan in enumerate(self.plans):
            draws = plan.draws(step)
            counts[concept] = len(draws)
            drawn += [concept] * any(self.words[concept] in self.tokenize(d.caption).words for d in draws)
            size = self.micro_batch or self.step_share[draws[0].record.dataset]
            batches += [self.batch(part, concept) for part in share_of(draws, size, self.rank, self.ranks)]
        return Work(step, batches, counts.to(self.device), drawn)

    def batch(self, draws: Sequence[Draw], concept: int) -> Batch:
        """Samples of one size and one concept."""
        moments = torch.stack([self.latents[d.record.path, d.view] for d in draws])  # [B,2C,h,w]
        mask = None
        if any(d.record.masked for d in draws):
            size = (moments.shape[2], moments.shape[3])
            mask = torch.stack([self.latents.mask(d.record, d.view, size) for d in draws]).to(self.device)  # [B,1,h,w]
        return Batch(
            moments=moments.to(self.device),
            text=self.stack([self.tokenize(d.caption) for d in draws], self.device),
            keys=[d.key for d in draws],
            levels=[d.level for d in draws],
            concept=torch.full((len(draws),), concept, device=self.device),
            weight=torch.tensor([d.weight for d in draws], device=self.device),
            mask=mask,
            sizes=torch.tensor(
                [told_sizes(d.record.size, d.view) for d in draws], dtype=torch.float32, device=self.device
            ),
        )


def share_of(draws: Sequence[Draw], size: int, rank: int, ranks: int) -> list[Sequence[Draw]]:
    """Micro-batches of this rank. Whole ones are dealt if all ranks get as many, since another number of samples rounds
    in another way: so several processes compute what one does. Else samples are dealt one by one.
    """
    whole = parts(draws, size)
    return whole[rank::ranks] if len(whole) % ranks == 0 else parts(draws[rank::ranks], size)


def parts(draws: Sequence[Draw], size: int) -> list[Sequence[Draw]]:
    """At most `size` of them together."""
    return [draws[i : i + size] for i in range(0, len(draws), size)]
