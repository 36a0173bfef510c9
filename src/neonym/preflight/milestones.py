"""The schedule of saves: when a run begins, ends and saves, counted in optimizer steps."""

from __future__ import annotations

from dataclasses import dataclass

from neonym.config.run import OptimSettings, SaveSettings


@dataclass(frozen=True)
class Milestones:
    """When a run begins, ends and saves.

    An epoch is one pass through the images of the concept that has the most of them.
    """

    first: int  # the first step that is done, 0-based
    total: int
    steps_per_epoch: int
    save_every_n_steps: int | None
    save_every_n_epochs: int | None
    keep_every_n_steps: int | None = None  # files in the run's folder, where the user asked for none

    def epoch_ends(self, done: int) -> int | None:
        """Return the epoch (1: the first) that ended with `done` steps; None within an epoch."""
        return None if done % self.steps_per_epoch else done // self.steps_per_epoch

    def saves_step(self, done: int) -> bool:
        """Return whether a file of this step is saved."""
        return is_due(self.save_every_n_steps, done)

    def keeps_step(self, done: int) -> bool:
        """Return whether a file goes into the run's folder. The end of the run has a file of its own."""
        return done < self.total and is_due(self.keep_every_n_steps, done)

    def saves_epoch(self, done: int) -> int | None:
        """Return the epoch to save after `done` steps. The end of the run has a file of its own."""
        epoch = self.epoch_ends(done)
        return epoch if epoch and done < self.total and is_due(self.save_every_n_epochs, epoch) else None


def is_due(every: int | None, count: int) -> bool:
    """Return whether something that happens every so many times happens at `count`; `None` and 0 mean never."""
    return every is not None and every > 0 and count % every == 0


def make_milestones(
    optim: OptimSettings, save: SaveSettings, total: int, steps_per_epoch: int, kept: int | None = None
) -> Milestones:
    """Return the milestones of a training of `total` steps, by sd-scripts' rules: a ratio becomes an interval of epochs.

    `kept` is the interval of the files in the run's folder.
    """
    every = save.save_every_n_epochs
    if save.save_n_epoch_ratio:
        every = max(1, -(-total // steps_per_epoch) // save.save_n_epoch_ratio)
    first = optim.initial_step or 0
    if optim.initial_epoch is not None:
        first = (optim.initial_epoch - 1) * steps_per_epoch
    return Milestones(first, total, steps_per_epoch, save.save_every_n_steps, every, kept)
