"""Micro-batches with samples of several words, and how many samples the memory of a device carries."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import psutil
import torch
from accelerate import Accelerator
from torch import Tensor

from neonym.data.loader import collate, parts
from neonym.models.lexicon import Lexicon, shifted
from neonym.models.model import Model
from neonym.training.objective import Objective
from neonym.training.session import Session
from neonym.training.step import sample_losses
from neonym.types import Batch, Sample, Work

MOST_ON_CPU, MOST_ON_GPU = 16, 64  # samples; more of them together are no faster (`python -m benchmarks.lanes`)
SHARE_OF_FREE = 0.8  # of the memory that is free: allocators and other programs take some
WATCH_SECONDS = 0.002  # between two looks at the memory of a CPU
Slot = tuple[int, Sample]  # the index of a word, and one of its samples


class MicroBatches:
    """The micro-batches of the words that learn together, each of at most `at_once` samples of one size.

    On a CPU, samples of several words go through the model together only if every word then gets the gradient, bit for
    bit, that it gets alone. This is tried for each size of images and of micro-batches, with the first one of its kind.
    """

    def __init__(self, model: Model, objective: Objective, accelerator: Accelerator, most: int | None):
        """Put at most `most` samples of several words together; None: as many as memory carries."""
        self.model, self.objective, self.accelerator, self.most = model, objective, accelerator, most
        self.fitting: dict[tuple, int] = {}  # samples of each shape that fit the memory together
        self.is_exact: dict[tuple, bool] = {}  # kinds of micro-batches that were tried

    def of(self, runs: Sequence[Session], works: Sequence[Work]) -> list[Batch]:
        """Return the micro-batches of one step, for the joined lexicon of the words, which is in use."""
        together: list[Sequence[Slot]] = []
        for group in groups_of(works).values():
            own = apart(group, works)
            at_once = 0 if len(runs) == 1 else self.at_once(runs[group[0][0]], group[0][1])
            for part in filled(own, at_once):
                joint = [slot for batch in part for slot in batch]
                together += [joint] if self.may_share(joint, part, runs) else part
        return [joint_batch(slots, runs) for slots in together]

    def at_once(self, run: Session, sample: Sample) -> int:
        """Return how many samples of this shape go through the model together."""
        shape = shape_of(sample)
        if self.most is None and shape not in self.fitting:
            self.fitting[shape] = self.measured(run, sample)
        return self.most or self.fitting[shape]

    def shrink(self) -> bool:
        """Halve the measured numbers of samples, and return whether any of them became smaller."""
        before = dict(self.fitting)
        self.fitting = {shape: max(1, count // 2) for shape, count in before.items()}
        return self.fitting != before

    def samples_that_fit(self, run: Session) -> int:
        """Return how many samples like the next one of a word go through the model together. Raises DataError."""
        sample = run.loader.sample(run.loader.plan.draws(run.state.step)[0])
        with run.speaking():
            return self.at_once(run, sample)

    def measured(self, run: Session, sample: Sample) -> int:
        """Return how many samples fit: the peak memory of one, there and back, is compared with what is free."""
        device = self.accelerator.device
        batch = collate([sample], [0], run.loader.stack, device)
        with run.speaking(), peak_memory(device) as peak:
            sample_losses(self.model, batch, self.objective).sum().backward()
        run.state.concept.clear_gradients()
        most = MOST_ON_GPU if device.type == "cuda" else MOST_ON_CPU
        return max(1, min(most, int(SHARE_OF_FREE * free_memory(device) / max(peak.bytes, 1))))

    def may_share(self, joint: Sequence[Slot], own: Sequence[Sequence[Slot]], runs: Sequence[Session]) -> bool:
        """Return whether samples may go through the model together that words compute in these micro-batches alone."""
        if len(own) == 1 or self.accelerator.device.type != "cpu":
            return True
        kind = (shape_of(joint[0][1]), len(joint), frozenset(map(len, own)))
        if kind not in self.is_exact:
            whole, each = self.gradients(runs, [joint]), self.gradients(runs, own)
            self.is_exact[kind] = all(torch.equal(*pair) for pair in zip(whole, each, strict=True))
        return self.is_exact[kind]

    def gradients(self, runs: Sequence[Session], batches: Sequence[Sequence[Slot]]) -> list[Tensor]:
        """Return the gradients of the words' rows, [n,W] each, from these micro-batches."""
        for batch in (joint_batch(slots, runs) for slots in batches):
            sample_losses(self.model, batch, self.objective).sum().backward()
        rows = [own for run in runs for own in run.state.concept.rows.values() if own.gradients is not None]
        found = [own.gradients.float() for own in rows if own.gradients is not None]
        for run in runs:
            run.state.concept.clear_gradients()
        return found


def groups_of(works: Sequence[Work]) -> dict[tuple, list[Slot]]:
    """Return the samples of several words, grouped by what they must share to go through the model together."""
    groups: dict[tuple, list[Slot]] = {}
    for index, work in enumerate(works):
        for sample in work.samples:
            groups.setdefault(shape_of(sample), []).append((index, sample))
    return groups


def apart(group: Sequence[Slot], works: Sequence[Work]) -> list[Sequence[Slot]]:
    """Return samples in the micro-batches that their words have alone."""
    by_word: dict[int, list[Slot]] = {}
    for slot in group:
        by_word.setdefault(slot[0], []).append(slot)
    return [own for index, slots in by_word.items() for own in parts(slots, works[index].at_once)]


def filled(own: Sequence[Sequence[Slot]], at_once: int) -> list[list[Sequence[Slot]]]:
    """Return micro-batches of words put together, as many as have at most `at_once` samples; none is cut."""
    found: list[list[Sequence[Slot]]] = []
    count = 0
    for batch in own:
        if not found or count + len(batch) > at_once:
            found.append([])
            count = 0
        found[-1].append(batch)
        count += len(batch)
    return found


def shape_of(sample: Sample) -> tuple:
    """Return what samples must share to go through the model together."""
    chunks = tuple(ids.shape[0] for ids in sample.text.ids.values())
    return tuple(sample.moments.shape), chunks, sample.text.emphasis is None


def joint_batch(slots: Sequence[Slot], runs: Sequence[Session]) -> Batch:
    """Return a micro-batch of samples, whose learned ids are raised by the rows of the words before their own."""
    lexicons, samples = [run.lexicon for run in runs], []
    for index, sample in slots:
        offsets = row_offsets(lexicons[:index])
        samples.append(replace(sample, text=shifted(sample.text, offsets, lexicons[index])))
    return collate(samples, [index for index, _ in slots], runs[0].loader.stack, runs[0].loader.device)


def row_offsets(before: Sequence[Lexicon]) -> dict[str, int]:
    """Return how many rows the lexicons have together, {encoder: rows}; nothing if there are none."""
    names = before[0].rows if before else ()
    return {name: sum(lexicon.count(name) for lexicon in before) for name in names}


class Peak:
    """The most memory that a block of code took at a time beyond what was taken before it, in bytes."""

    bytes = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the peak memory of a block on its device."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    process, over = psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not over.wait(WATCH_SECONDS):
            peak.bytes = max(peak.bytes, process.memory_info().rss - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def free_memory(device: torch.device) -> float:
    """Return the bytes that are free on a device, including what torch keeps for later use."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available
