"""Masks of a data set: images in a folder of their own, whose white parts count and whose black parts do not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from neonym.config.sources import folder_subsets
from neonym.io.atomic import atomic_write
from neonym.web.disk import reporting_disk_errors
from neonym.web.images import ENDINGS

MASKS = "masks"  # the key of their folder in a draft, beside the names of settings


def with_masks(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return settings in which the folder of masks is named as training reads it: in a dataset file.

    The file is written to `folder`, under a name that its content has alone: two tabs may write files there. Raises
    UserError if the disk refuses.
    """
    masks, images = values.get(MASKS), values.get("train_data_dir")
    rest = {name: value for name, value in values.items() if name != MASKS}
    if not masks or not images:
        return rest
    rest.pop("train_data_dir")
    text = json.dumps({"datasets": [{"subsets": subsets(Path(images), Path(masks))}]})
    file = folder / f"dataset-{sha256(text.encode()).hexdigest()[:16]}.json"
    with reporting_disk_errors(file), atomic_write(file) as part:
        part.write_text(text, encoding="utf-8")
    return {**rest, "dataset_config": str(file), "masked_loss": True}


def subsets(images: Path, masks: Path) -> list[dict[str, Any]]:
    """Return the subsets of a folder of images, or of its `N_name` folders, with their masks."""
    found = folder_subsets(images, "", False, []) or [{"image_dir": str(images), "is_reg": False}]
    for subset in found:
        del subset["is_reg"]
        subset.pop("class_tokens", None)  # subsets with masks have none
        subset["conditioning_data_dir"] = str(masks_of(Path(subset["image_dir"]), images, masks))
    return found


def masks_of(part: Path, images: Path, masks: Path) -> Path:
    """Return the folder with the masks of a part of a data set: the one of the same name, if there is one."""
    return own if part != images and (own := masks / part.name).is_dir() else masks


def mask_of(image: Path, images: Path, masks: str) -> Path | None:
    """Return the mask of an image, which has its name up to the extension; None if there is none."""
    folder = masks_of(image.parent, images, Path(masks))
    files = (folder / f"{image.stem}{ending}" for ending in ENDINGS) if masks else ()
    return next((file for file in files if file.is_file()), None)
