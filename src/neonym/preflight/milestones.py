"""The milestones of a run: the steps at which it begins, ends and saves files."""

from __future__ import annotations

from dataclasses import dataclass

from neonym.config.learning_settings import OptimSettings
from neonym.config.output_settings import SaveSettings


@dataclass(frozen=True)
class Milestones:
    """The steps at which a run begins, ends and saves files, counted in optimizer steps.

    An epoch is one pass through the images of the concept that has the most of them.
    """

    first: int  # the first step to do, counted from 0
    total: int
    steps_per_epoch: int
    save_every_n_steps: int | None
    save_every_n_epochs: int | None
    keep_every_n_steps: int | None = None  # files in the run folder, if the user requests none

    def epoch_ends(self, done: int) -> int | None:
        """Return the epoch (1: the first) that ends after `done` steps; None if none does."""
        return None if done % self.steps_per_epoch else done // self.steps_per_epoch

    def saves_step(self, done: int) -> bool:
        """Return whether a file is saved after `done` steps."""
        return is_due(self.save_every_n_steps, done)

    def keeps_step(self, done: int) -> bool:
        """Return whether a file is kept in the run folder after `done` steps, other than at the end of the run."""
        return done < self.total and is_due(self.keep_every_n_steps, done)

    def saves_epoch(self, done: int) -> int | None:
        """Return the epoch whose file is saved after `done` steps, if any, other than at the end of the run."""
        epoch = self.epoch_ends(done)
        return epoch if epoch and done < self.total and is_due(self.save_every_n_epochs, epoch) else None


def is_due(every: int | None, count: int) -> bool:
    """Return whether something that is due at every multiple of `every` is due at `count`. None and 0 mean never."""
    return every is not None and every > 0 and count % every == 0


def make_milestones(
    optim: OptimSettings, save: SaveSettings, total: int, steps_per_epoch: int, kept: int | None = None
) -> Milestones:
    """Return the milestones of a training of `total` steps. As in sd-scripts, a ratio becomes an interval of epochs.

    `kept` is the interval, in steps, of the files in the run folder.
    """
    every = save.save_every_n_epochs
    if save.save_n_epoch_ratio:
        every = max(1, -(-total // steps_per_epoch) // save.save_n_epoch_ratio)
    first = optim.initial_step or 0
    if optim.initial_epoch is not None:
        first = (optim.initial_epoch - 1) * steps_per_epoch
    return Milestones(first, total, steps_per_epoch, save.save_every_n_steps, every, kept)
