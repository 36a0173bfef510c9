"""When a run begins, ends and saves, all counted in optimizer steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neonym.config.run import RunConfig
from neonym.data.plan import ConceptPlan


@dataclass(frozen=True)
class Rhythm:
    """An epoch is one passage through the pictures of the concept that has most of them."""

    first: int  # the first step that is done, 0-based
    total: int
    steps_per_epoch: int
    save_every_n_steps: int | None
    save_every_n_epochs: int | None
    keep_every_n_steps: int | None = None  # files in the run's folder, where the user asked for none

    def epoch_ends(self, done: int) -> int | None:
        """The epoch (1: the first) that ended with `done` steps; None within one."""
        return None if done % self.steps_per_epoch else done // self.steps_per_epoch

    def saves_step(self, done: int) -> bool:
        return due(self.save_every_n_steps, done)

    def keeps_step(self, done: int) -> bool:
        """Whether a file goes into the run's folder. The end of the run has a file of its own."""
        return done < self.total and due(self.keep_every_n_steps, done)

    def saves_epoch(self, done: int) -> int | None:
        """The epoch to save after `done` steps. The end of the run has a file of its own."""
        epoch = self.epoch_ends(done)
        return epoch if epoch and done < self.total and due(self.save_every_n_epochs, epoch) else None


def due(every: int | None, count: int) -> bool:
    return every is not None and every > 0 and count % every == 0


def make_rhythm(run: RunConfig, plans: Sequence[ConceptPlan], kept: int | None = None) -> Rhythm:
    """Epochs to steps, by sd-scripts' rules: epochs win over steps; a ratio is turned into an interval.

    `kept`: the interval of the files in the run's folder.
    """
    optim, save = run.optim, run.save
    per_epoch = max(plan.steps_per_epoch for plan in plans)
    total = optim.max_train_epochs * per_epoch if optim.max_train_epochs else optim.max_train_steps
    assert total is not None
    every = save.save_every_n_epochs
    if save.save_n_epoch_ratio:
        every = max(1, -(-total // per_epoch) // save.save_n_epoch_ratio)
    first = optim.initial_step or 0
    if optim.initial_epoch is not None:
        first = (optim.initial_epoch - 1) * per_epoch
    return Rhythm(first, total, per_epoch, save.save_every_n_steps, every, kept)
