"""Cutting the words of a plan into shards, and choosing the next one for a worker."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from neonym.fleet.words import Shard, Word

MANY = 8  # shards for each worker
WORDS = 32  # about so many in a shard; `python -m benchmarks.fleet_plan` compares sizes


def cut(words: Sequence[Word], finished: Collection[str], workers: int, size: int | None = None) -> list[Shard]:
    """Return the shards of a plan, in its order: each holds words of one group.

    The words of a group are shared out evenly among the workers: all lanes are used, and workers end at about the same
    time. Words that look `finished` are in shards of their own, which come first: a worker only has to recognise them,
    unless the plan has more steps now.
    """
    groups: dict[tuple[bool, str], list[Word]] = {}
    for word in words:
        groups.setdefault((word.name not in finished, word.group), []).append(word)
    shards: list[Shard] = []
    for _, own in sorted(groups.items(), key=lambda item: item[0][0]):
        length = size or even_length(len(own), workers)
        shards += [Shard(tuple(own[i : i + length])) for i in range(0, len(own), length)]
    return shards


def even_length(words: int, workers: int) -> int:
    """Return the number of words in a shard such that every worker gets equally many shards of about `WORDS`.

    Where every worker gets many, they end at about the same time anyway.
    """
    share = -(-words // max(1, workers))
    if share > MANY * WORDS:
        return WORDS
    return -(-share // max(1, round(share / WORDS)))


def next_shard(waiting: Sequence[Shard], busy_groups: Iterable[str], last_group: str) -> int:
    """Return the index of the shard that a worker does next.

    It has the group of the worker's last shard, whose model is loaded. Otherwise, it is of the group with the most
    shards left for each worker that trains it, so that models are loaded as seldom as possible.
    """
    for index, shard in enumerate(waiting):
        if shard.group == last_group:
            return index
    busy = list(busy_groups)
    left: dict[str, float] = {}
    for shard in waiting:
        left[shard.group] = left.get(shard.group, 0.0) + 1.0
    best = max(left, key=lambda group: left[group] / (1 + busy.count(group)))
    return next(index for index, shard in enumerate(waiting) if shard.group == best)


def after_death(shard: Shard, done: Collection[str]) -> list[Shard]:
    """Return what is left of a shard whose worker died, to be done again.

    After a second death its words go on alone, so that one of them that kills its process spares the others.
    """
    left = tuple(word for word in shard.words if word.name not in done)
    if not left:
        return []
    if shard.deaths == 0 or len(left) == 1:
        return [replace(shard, words=left, deaths=shard.deaths + 1)]
    return [Shard((word,), 1) for word in left]
