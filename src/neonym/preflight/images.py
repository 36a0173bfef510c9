"""Problems of images: unsuitable sizes, masks and crops without effect, images that look the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from neonym.config.dataset import DatasetConfig
from neonym.data.datasets import Dataset
from neonym.errors import Problem, in_one_line
from neonym.models.source import ModelSource
from neonym.types import ImageRecord

FEW_IMAGES = 300  # in larger sets, images are not decoded to be compared


def image_problems(
    records: Sequence[ImageRecord], datasets: Sequence[Dataset], source: ModelSource, masked_loss: bool
) -> Iterator[Problem]:
    """Yield a problem for each setting that does not suit the model, or has no effect on these images."""
    largest = max((max(record.fit.bucket) for record in records), default=0)
    most = source.facts.largest_side
    if most is not None and largest > most:
        what = f"images are trained at up to {largest} pixels a side, but the model reads at most {most}"
        yield Problem("error", what, "resolution", "Leave resolution and max_bucket_reso out")
    elif largest > 2 * source.native_size:
        size = max(record.fit.bucket for record in records)
        what = f"images are trained at up to {size}, but the model is made for {source.native_size}"
        yield Problem("warning", what, "resolution", "Leave resolution out to use the model's own size")
    folders = [folder for dataset in datasets for folder in dataset.folders]
    if masked_loss and not any(folder.masks or folder.image_rules.alpha_mask for folder in folders):
        fix = "Provide masks with conditioning_data_dir in the dataset file, or use --alpha_mask"
        yield Problem("warning", "has no effect, because no image has a mask", "--masked_loss", fix)
    if any(d.buckets.enabled for d in datasets) and any(record.image_rules.face_crop for record in records):
        what = "only works without buckets"
        yield Problem("warning", what, "face_crop_aug_range", "Leave out face_crop_aug_range or enable_bucket")


def unused_keys(config: DatasetConfig) -> Iterator[Problem]:
    """Yield a note if a dataset file has keys that belong to other trainers."""
    subsets = [subset for dataset in config.datasets for subset in dataset.subsets]
    if any(d.network_multiplier != 1 for d in config.datasets) or any(s.custom_attributes for s in subsets):
        what = "network_multiplier and custom_attributes belong to other trainers and have no effect here"
        yield Problem("note", what, "dataset")


def similar_image_warnings(records: Sequence[ImageRecord]) -> list[Problem]:
    """Return warnings about images that look the same, which count twice, and about plain images, which teach nothing.

    In a set of more than `FEW_IMAGES` images only identical files are found, because the images are not decoded.
    """
    from neonym.data.metadata_files import one_colour_problem
    from neonym.data.tools.duplicates import difference_hashes, similar

    shown = {r.path: r.content for r in records if not r.is_reg}
    if len(shown) <= FEW_IMAGES:
        prints = difference_hashes(list(shown))
        groups, plain = similar(prints), [path.name for path, bits in prints.items() if bits is None]
    else:
        by_content: dict[str, list[Path]] = {}
        for path, content in shown.items():
            by_content.setdefault(content, []).append(path)
        groups, plain = [group for group in by_content.values() if len(group) > 1], []
    problems = [one_colour_problem(plain)] if plain else []
    if not groups:
        return problems
    named = "; ".join(" = ".join(in_one_line(path.name) for path in group[:4]) for group in groups[:3])
    what = f"{sum(map(len, groups))} images look the same as others ({named}{'; ...' if len(groups) > 3 else ''})"
    return [
        *problems,
        Problem("warning", what, "images", "They count more than the other images: keep only one of each"),
    ]
