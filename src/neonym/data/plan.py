"""Plan the samples of each step, as a pure function of the step, so that resuming needs no stored order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from neonym.data.captions import Moment, final_caption
from neonym.data.images import draw_view
from neonym.seeds import dice
from neonym.types import Draw, ImageRecord

GOLDEN = (5**0.5 - 1) / 2  # its multiples modulo 1 are evenly distributed


class ConceptPlan:
    """The draws of one concept, which do not depend on other concepts in the run.

    In an epoch, the items of each bucket are shuffled by key and split into steps of one bucket each, which are then
    shuffled by key. A step has `step_sizes[dataset]` samples (batch size times gradient accumulation); the last step of
    a bucket may have fewer.

    Noise levels are uniform, or `stratified`: evenly spaced over the samples of a step and shifted from step to step,
    so that any sequence of steps covers all levels evenly. `steps` is the length of the training, over a share of which
    tags may be warmed up.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        step_sizes: Sequence[int],
        seed: int,
        reg_weight: float,
        stratified: bool = False,
        steps: int = 1,
    ):
        self.steps = steps
        self.seed, self.reg_weight, self.step_sizes, self.stratified = seed, reg_weight, step_sizes, stratified
        groups: dict[tuple, list[ImageRecord]] = {}
        for record in records:
            groups.setdefault((record.dataset, *record.fit.bucket), []).extend([record] * record.repeats)
        self.groups = sorted(groups.items())
        self.steps_per_epoch = sum(-(-len(items) // step_sizes[group[0]]) for group, items in self.groups)
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, epoch: int) -> list[list[ImageRecord]]:
        """Return the images of each step of an epoch, in the epoch's order."""
        steps = []
        for group, items in self.groups:
            order = list(items)
            dice(self.seed, "epoch", epoch, *group).shuffle(order)
            size = self.step_sizes[group[0]]
            steps += [order[i : i + size] for i in range(0, len(order), size)]
        dice(self.seed, "epoch", epoch).shuffle(steps)
        return steps

    def draws(self, step: int) -> list[Draw]:
        """Return the samples of `step`, all of one bucket."""
        epoch, index = divmod(step, self.steps_per_epoch)
        records = self._epoch(epoch)[index]
        at = Moment(1 + epoch, step, self.steps)
        return [self.draw(r, step, slot, self.level(step, slot, len(records)), at) for slot, r in enumerate(records)]

    def level(self, step: int, slot: int, samples: int) -> float:
        """Return the noise level, from 0 to 1 (excluded), of the sample `slot` in a step with this number of samples."""
        if not self.stratified:
            return dice(self.seed, step, slot, "timestep").random()
        shift = (dice(self.seed, "timesteps").random() + step * GOLDEN) % 1.0
        return (slot + shift) / samples

    def draw(self, record: ImageRecord, step: int, slot: int, level: float, at: Moment) -> Draw:
        """Return one sample of a step, with its caption and view drawn from its key."""
        key = (self.seed, step, slot)
        return Draw(
            record=record,
            caption=final_caption(record.caption, record.rules, dice(*key, "caption"), at),
            view=draw_view(record, dice(*key, "view")),
            key=key,
            level=level,
            weight=self.reg_weight if record.is_reg else 1.0,
        )


def fingerprint(records: Sequence[ImageRecord], *settings: object) -> str:
    """Return a hash of everything that affects the plan: images, captions, buckets, repeats, settings."""
    digest = hashlib.sha256(repr(settings).encode())
    for record in records:
        facts = (
            record.content,
            record.caption,
            record.fit,
            record.concept,
            record.dataset,
            record.repeats,
            record.is_reg,
        )
        settings_of_record = repr((*facts, record.image_rules, record.rules))
        digest.update(settings_of_record.replace("ImageRules(", "PictureRules(").encode())  # its name in older states
    return digest.hexdigest()
