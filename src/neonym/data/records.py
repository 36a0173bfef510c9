"""Collect the images of a run: find them, inspect them, read their captions, fit them to buckets, repeat them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

from neonym.data.buckets import bucket_sizes, fit
from neonym.data.datasets import Dataset, Folder
from neonym.data.images import NOT_READ, ImageFacts, find_images
from neonym.data.index import inspect_images
from neonym.data.metadata_files import (
    Entry,
    Reporter,
    escape_hint,
    find_masks,
    names_in,
    read_metadata,
    with_other_ending,
)
from neonym.data.remarks import Remark, remark_problems
from neonym.data.subset_captions import SubsetCaptions
from neonym.errors import DataError, Problem, counted, in_one_line, some
from neonym.extras import install_command
from neonym.types import Fit, ImageRecord, Size

Inspected = Mapping[Path, ImageFacts | DataError]
THIN = 3.0  # an image resized to more than this multiple of its bucket's area loses most of itself to the crop
MOST_ITEMS = 20_000_000  # images in a dataset, including repeats: an epoch is a list of them
TINY = 0.25  # an image of a smaller fraction of its bucket's area is enlarged to more than twice its size


def scan(
    datasets: Sequence[Dataset], report: Reporter, broken_is_fatal: bool = False
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Return the training records and the held-out records. Problems of images and files are passed to `report`."""
    training, held_out = [], []
    for index, dataset in enumerate(datasets):
        found, kept_back = Scan(dataset, index, report, broken_is_fatal).run()
        training += found
        held_out += kept_back
    return without_leaks(training, held_out, report), held_out


def without_leaks(training: list[ImageRecord], held_out: list[ImageRecord], report: Reporter) -> list[ImageRecord]:
    """Return the training records without images that are held out in another folder or dataset.

    Images are compared by content. Copies in the same folder are reported and kept, since sd-scripts' rule decides
    which of them are held out.
    """
    places = {(r.concept, r.content[:64], r.path.parent) for r in held_out}
    names, contents = {(r.concept, r.path) for r in held_out}, {place[:2] for place in places}

    def is_copy(r: ImageRecord) -> bool:
        return (r.concept, r.content[:64], r.path.parent) in places and (r.concept, r.path) not in names

    suspects = [r for r in training if (r.concept, r.content[:64]) in contents]
    copies = [r.path.name for r in suspects if is_copy(r)]
    leaks = {id(r): r.path.name for r in suspects if not is_copy(r)}
    if leaks:
        what = f"{len(leaks)} images are held out elsewhere, so they are not trained ({some(list(leaks.values()))})"
        report(Problem("warning", what, "validation_split"))
    if copies:
        what = f"{len(copies)} training images are copies of held-out ones in their folder ({some(copies)})"
        fix = "Keep one of each, or the evaluation looks better than it is"
        report(Problem("warning", what, "validation_split", fix))
    return [r for r in training if id(r) not in leaks]


class Scan:
    """The scan of one dataset, which uses as many regularisation images of each concept as training images."""

    def __init__(self, dataset: Dataset, index: int, report: Reporter, broken_is_fatal: bool):
        self.dataset, self.index, self.report = dataset, index, report
        self.broken_is_fatal = broken_is_fatal
        self.fits: dict[Size, Fit] = {}
        self.names_in = cache(names_in)

    def run(self) -> tuple[list[ImageRecord], list[ImageRecord]]:
        """Return the training records and the held-out records of the dataset."""
        dataset, report = self.dataset, self.report
        try:
            self.rules = dataset.buckets.adjusted() if dataset.buckets.enabled else dataset.buckets
        except ValueError as error:  # the images are still inspected, so that one mistake does not hide others
            report(Problem("error", str(error), f"datasets[{self.index}]", "Change the limits or the resolution"))
            self.rules = replace(dataset.buckets, enabled=False)
        self.sizes = bucket_sizes(self.rules) if self.rules.enabled else []
        training, held_out, regular, seen = [], [], [], set()
        for folder in dataset.folders:
            if folder.repeats < 1:
                report(Problem("warning", f"num_repeats is {folder.repeats}, so it is ignored", str(folder.place)))
                continue
            try:
                place = (folder.concept, folder.place.resolve())
            except (OSError, RuntimeError) as error:
                report(Problem("error", f"cannot be reached ({error})", str(folder.place), "Check the link"))
                continue
            if place in seen:
                what = "is listed twice in one dataset; the second entry is ignored"
                report(Problem("warning", what, str(folder.place)))
                continue
            seen.add(place)
            records = self.folder(folder)
            if folder.is_reg:
                regular += records
                continue
            kept, back = hold_out(records, dataset.held_out_share, dataset.held_out_seed)
            training += kept
            held_out += [replace(record, repeats=1) for record in back]
        items = sum(r.repeats for r in training)
        if items > MOST_ITEMS:
            what = f"its images count {items} times in total, more than the limit of {MOST_ITEMS}"
            report(Problem("error", what, f"datasets[{self.index}]", "Lower num_repeats"))
            return [], []
        for concept in sorted({r.concept for r in regular}):
            training += self.dealt([r for r in regular if r.concept == concept], training)
        return training, held_out

    def dealt(self, regular: list[ImageRecord], training: list[ImageRecord]) -> list[ImageRecord]:
        """Return as many regularisation images of one concept as it has training images, and report those left over."""
        wanted = sum(r.repeats for r in training if r.concept == regular[0].concept)
        used = deal(regular, wanted)
        where = some(sorted({str(r.path.parent) for r in regular}))
        if not used:
            what = (
                f"none of the {len(regular)} regularisation images is used: "
                "their [[datasets]] has no images of the word"
            )
            fix = "Put them into the [[datasets]] of the images of the word"
            self.report(Problem("warning", what, where, fix))
        elif len(used) < len(regular):
            spare = some([r.path.name for r in regular[len(used) :]])
            what = f"{len(regular) - len(used)} of {len(regular)} regularisation images are not used ({spare})"
            fix = (
                f"As many are used as there are images of the word, which count {wanted} times: "
                "raise the repeats of those"
            )
            self.report(Problem("warning", what, where, fix))
        return used

    def folder(self, folder: Folder) -> list[ImageRecord]:
        """Return the records of every usable image of a subset."""
        entries = self.entries(folder)
        masks = find_masks([e.path for e in entries], folder.masks, self.report) if folder.masks else {}
        inspected = inspect_images([*(e.path for e in entries), *masks.values()])
        captions = SubsetCaptions(
            folder, entries, self.names_in(folder.path) if folder.path and not folder.metadata else set()
        )
        records = []
        for entry in entries:
            mask = masks.get(entry.path)
            fitted, caption = self.measured(entry, mask, inspected), captions.read(entry)
            if fitted is None or caption is None:
                continue
            text = folder.class_tokens if caption.text is None else caption.text
            records.append(
                ImageRecord(
                    path=entry.path, caption=text or "", size=fitted[0], fit=fitted[1], content=fitted[2], concept=folder.concept,
                    dataset=self.index, repeats=folder.repeats, is_reg=folder.is_reg, rules=folder.rules,
                    image_rules=folder.image_rules, mask=mask, unused_lines=caption.further,
                )
            )  # fmt: skip
        for problem in (
            *captions.problems(),
            *remark_problems(remarks_of(inspected), masks.values(), str(folder.place)),
        ):
            self.report(problem)
        if entries and not records:
            what = f"contains no usable images ({some([entry.path.name for entry in entries])})"
            self.report(Problem("error", what, str(folder.place)))
        report_shapes(folder, records, self.rules.enabled, self.report)
        return records

    def entries(self, folder: Folder) -> list[Entry]:
        """Return the images of a subset, with the facts in its metadata file if there is one."""

        def complain(what: str, path: Path) -> None:
            self.report(Problem("warning", what, str(path), "It is ignored"))

        try:
            if folder.metadata is not None:
                rules = folder.rules
                entries = read_metadata(folder.metadata, folder.path, rules.separator, rules.wildcards, self.report)
                if not entries:
                    self.report(Problem("error", "contains no images", str(folder.metadata)))
                return entries
            home = folder.place
            paths = find_images(home, complain)
        except DataError as error:
            self.report(error.problem)
            return []
        except OSError as error:
            fix = escape_hint(folder.place) or "Check image_dir"
            self.report(Problem("error", f"cannot be read ({error.strerror})", str(folder.place), fix))
            return []
        if not paths:
            fix = "Put images directly into the folder: subfolders are not searched"
            self.report(Problem("error", "contains no images", str(folder.place), fix))
        self.report_names(home, paths)
        return [Entry(path) for path in paths]

    def report_names(self, folder: Path, paths: Sequence[Path]) -> None:
        """Report images in unsupported formats in a folder, and images that share a caption file."""
        others = sorted(name for name in self.names_in(folder) if name.lower().endswith(tuple(NOT_READ)))
        if others:
            what = f"{counted(len(others), 'image')} ignored because of an unsupported format ({some(others)})"
            jxl = any(name.lower().endswith(".jxl") for name in others)
            fix = "Save them as PNG, JPEG or WebP" + (f", or {install_command('pillow_jxl')}" if jxl else "")
            self.report(Problem("warning", what, str(folder), fix))
        stems = Counter(path.stem for path in paths)
        shared = [path.name for path in paths if stems[path.stem] > 1] if len(stems) < len(paths) else []
        if shared:
            what = (
                f"{len(shared)} images differ only in their extensions, so they share a caption file ({some(shared)})"
            )
            self.report(Problem("note", what, str(folder)))

    def measured(self, entry: Entry, mask: Path | None, inspected: Inspected) -> tuple[Size, Fit, str] | None:
        """Return an image's size, fit and content hash, or report that it cannot be used and return None."""
        try:
            size, content = known(inspected, entry.path)
            if size not in self.fits:
                self.fits[size] = fit(size, self.rules, self.sizes)
        except DataError as error:
            severity = "error" if self.broken_is_fatal else "warning"
            likely = with_other_ending(entry.path, self.names_in(entry.path.parent))
            fix = (
                f"Did you mean {in_one_line(likely)}? Metadata names images with their extensions"
                if likely
                else error.problem.fix
            )
            self.report(replace(error.problem, severity=severity, fix=fix))
            return None
        except ValueError as error:
            severity = "error" if self.broken_is_fatal else "warning"
            self.report(Problem(severity, str(error), str(entry.path), "Remove it, or turn bucket_no_upscale off"))
            return None
        if entry.size is not None and size not in (entry.size, entry.size[::-1]):
            what = f"is {size[0]} x {size[1]}, not {entry.size[0]} x {entry.size[1]} as the metadata says"
            self.report(Problem("warning", what, str(entry.path), "The actual size is used"))
        try:
            content += check_mask(mask, known(inspected, mask), size) if mask is not None else ""
        except DataError as error:  # an error even if broken images are skipped: the whole image would be trained
            self.report(error.problem)
            return None
        return size, self.fits[size], content


def remarks_of(inspected: Inspected) -> Iterator[tuple[Path, Remark]]:
    """Yield the remarks about readable images and masks, with their paths."""
    return (
        (path, remark) for path, facts in inspected.items() if isinstance(facts, ImageFacts) for remark in facts.remarks
    )


def known(inspected: Inspected, path: Path) -> tuple[Size, str]:
    """Return the size and the content hash of an image. Raises the DataError that reading it raised."""
    facts = inspected[path]
    if isinstance(facts, DataError):
        raise facts
    return facts.size, facts.content


def check_mask(mask: Path, facts: tuple[Size, str], size: Size) -> str:
    """Return the content hash of a mask. Raises DataError if it does not have the aspect ratio of its image."""
    found, content = facts
    if abs(found[0] * size[1] - found[1] * size[0]) > max(found[0], size[0], found[1], size[1]):
        what = f"is a mask of {found[0]} x {found[1]}, but its image is {size[0]} x {size[1]}"
        raise DataError(what, str(mask), "A mask must have the shape of its image")
    return content


def report_shapes(folder: Folder, records: Sequence[ImageRecord], bucketed: bool, report: Reporter) -> None:
    """Report images that lose most of themselves to the crop, and images that are far smaller than their bucket."""
    thin = [
        r.path.name for r in records if r.fit.resized[0] * r.fit.resized[1] > THIN * r.fit.bucket[0] * r.fit.bucket[1]
    ]
    if thin:
        what = f"{counted(len(thin), 'image')} so thin that most of the image is cropped ({some(thin)})"
        fix = "Crop them yourself" if bucketed else "Use --enable_bucket, or crop them yourself"
        report(Problem("warning", what, str(folder.place), fix))
    tiny = [r.path.name for r in records if r.size[0] * r.size[1] < TINY * r.fit.bucket[0] * r.fit.bucket[1]]
    if tiny:
        what = f"{counted(len(tiny), 'image')} enlarged to more than twice the original size ({some(tiny)})"
        report(Problem("warning", what, str(folder.place), "Use larger images, or a smaller resolution"))


def hold_out(records: list[ImageRecord], share: float, seed: int) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Return the training records and the held-out records, which depend only on the folder and the seed.

    The shuffle is that of sd-scripts, so that its `validation_seed` holds out the same images; but no image is on both
    sides, and any share above 0 holds out at least one.
    """
    if not share or len(records) < 2:
        return records, []
    count = min(max(1, round(len(records) * share)), len(records) - 1)
    order = list(range(len(records)))
    Random(seed).shuffle(order)
    back = set(order[len(order) - count :])
    return [r for i, r in enumerate(records) if i not in back], [records[i] for i in sorted(back)]


def deal(regular: list[ImageRecord], wanted: int) -> list[ImageRecord]:
    """Return regularisation images with repeats that add up to `wanted`. Images beyond that are left out."""
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
    """Return the number of steps in an epoch of `records`. `step_sizes` holds the samples per step of each dataset."""
    counts: dict[tuple[int, Size], int] = {}
    for record in records:
        group = (record.dataset, record.fit.bucket)
        counts[group] = counts.get(group, 0) + record.repeats
    return sum(math.ceil(count / step_sizes[dataset]) for (dataset, _), count in counts.items())
