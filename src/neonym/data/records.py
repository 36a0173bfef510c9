"""The pictures of a run: found, measured, captioned, fitted to buckets, repeated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from neonym.data.buckets import BucketRules, bucket_sizes, fit
from neonym.data.captions import read_caption
from neonym.data.images import find_images, image_size
from neonym.errors import DataError, Problem
from neonym.seeds import dice
from neonym.types import CaptionRules, Fit, ImageRecord, Size


@dataclass(frozen=True)
class Folder:
    """One subset: a folder of pictures and how they are used."""

    path: Path
    concept: int
    repeats: int = 1
    is_reg: bool = False
    caption_extension: str | None = None
    class_tokens: str | None = None
    flip: bool = False
    rules: CaptionRules = field(default_factory=CaptionRules)


@dataclass(frozen=True)
class Dataset:
    """Folders that share a batch size and buckets."""

    folders: tuple[Folder, ...]
    batch_size: int
    buckets: BucketRules


Reporter = Callable[[Problem], object]


def scan(
    datasets: Sequence[Dataset], held_out_share: float, held_out_seed: int, report: Reporter
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """-> (training records, held-out records). What is wrong with single pictures goes to `report`."""
    training, held_out = [], []
    for index, dataset in enumerate(datasets):
        found, kept_back = scan_dataset(dataset, index, held_out_share, held_out_seed, report)
        training += found
        held_out += kept_back
    return training, held_out


def scan_dataset(
    dataset: Dataset, index: int, share: float, seed: int, report: Reporter
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """One data set; its regularisation pictures are dealt out against its training pictures, concept by concept."""
    try:
        rules = dataset.buckets.adjusted() if dataset.buckets.enabled else dataset.buckets
    except ValueError as error:
        report(Problem("error", str(error), f"datasets[{index}]", "Change the limits or the resolution"))
        return [], []
    sizes = bucket_sizes(rules) if rules.enabled else []
    training, held_out, regular, seen = [], [], [], set()
    for folder in dataset.folders:
        if folder.repeats < 1:
            report(Problem("warning", f"num_repeats is {folder.repeats}, so it is passed over", str(folder.path)))
            continue
        place = (folder.concept, folder.path.resolve())
        if place in seen:
            report(Problem("warning", "is named twice in one data set; the second is passed over", str(folder.path)))
            continue
        seen.add(place)
        records = scan_folder(folder, index, rules, sizes, report)
        if folder.is_reg:
            regular += records
            continue
        kept, back = split(records, share, seed)
        training += kept
        held_out += back
    for concept in sorted({r.concept for r in regular}):
        wanted = sum(r.repeats for r in training if r.concept == concept)
        training += deal([r for r in regular if r.concept == concept], wanted)
    return training, held_out


def scan_folder(
    folder: Folder, dataset: int, rules: BucketRules, sizes: list[Size], report: Reporter
) -> list[ImageRecord]:
    """Every usable picture directly in the folder."""
    try:
        paths = find_images(folder.path)
    except OSError as error:
        report(Problem("error", f"cannot be read ({error.strerror})", str(folder.path), "Check image_dir"))
        return []
    if not paths:
        report(Problem("error", "has no pictures", str(folder.path), "Pictures must lie directly in the folder"))
    records, fits, bare = [], dict[Size, Fit](), []
    for path in paths:
        try:
            caption = read_caption(path, folder.caption_extension)
            size = image_size(path)
            if size not in fits:
                fits[size] = fit(size, rules, sizes)
        except DataError as error:
            report(error.problem)
            continue
        except ValueError as error:
            report(Problem("error", str(error), str(path), "Remove it, or allow enlarging"))
            continue
        if caption is None:
            caption = folder.class_tokens
            bare += [path] * (caption is None)
        records.append(
            ImageRecord(
                path=path,
                caption=caption or "",
                size=size,
                fit=fits[size],
                concept=folder.concept,
                dataset=dataset,
                repeats=folder.repeats,
                is_reg=folder.is_reg,
                flip=folder.flip,
                rules=folder.rules,
            )
        )
    if bare:
        what = f"{len(bare)} pictures have no caption file and there are no class_tokens ({names(bare)})"
        report(Problem("warning", what, str(folder.path), "Add .txt files, or class_tokens with the new word"))
    return records


def split(records: list[ImageRecord], share: float, seed: int) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """-> (training, held out). The same pictures are held out whenever the folder and the seed are the same."""
    count = min(round(len(records) * share), max(0, len(records) - 1))
    order = list(range(len(records)))
    dice(seed, "held out").shuffle(order)
    back = set(order[len(order) - count :])
    return [r for i, r in enumerate(records) if i not in back], [records[i] for i in sorted(back)]


def deal(regular: list[ImageRecord], wanted: int) -> list[ImageRecord]:
    """Regularisation pictures in turn, until they make `wanted` items; pictures beyond that are not used."""
    repeats = [0] * len(regular)
    made = 0
    for i, record in enumerate(regular):
        if made >= wanted:
            break
        repeats[i] = record.repeats
        made += record.repeats
    used = sum(1 for n in repeats if n)
    if used and made < wanted:
        rounds, rest = divmod(wanted - made, used)
        repeats = [n + rounds + (i < rest) for i, n in enumerate(repeats[:used])] + repeats[used:]
    return [replace(r, repeats=n) for r, n in zip(regular, repeats, strict=True) if n]


def steps_per_epoch(records: Sequence[ImageRecord], step_sizes: Sequence[int]) -> int:
    """How many steps go once through `records`; `step_sizes` is the number of samples of a step, per data set."""
    counts: dict[tuple[int, Size], int] = {}
    for record in records:
        group = (record.dataset, record.fit.bucket)
        counts[group] = counts.get(group, 0) + record.repeats
    return sum(math.ceil(count / step_sizes[dataset]) for (dataset, _), count in counts.items())


def names(paths: Sequence[Path]) -> str:
    """The first three file names."""
    return ", ".join(p.name for p in paths[:3]) + (", ..." if len(paths) > 3 else "")
