"""Masks of a data set: images in a folder of their own, whose white parts count and whose black parts do not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neonym.io.atomic import atomic_write
from neonym.web.disk import reporting_disk_errors
from neonym.web.images import ENDINGS

MASKS = "masks"  # the key of their folder in a draft, beside the names of settings
FILE = "dataset.json"


def with_masks(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return settings in which the folder of masks is named as training reads it: in a dataset file.

    The file is written to `folder`. Raises UserError if the disk refuses.
    """
    masks, images = values.get(MASKS), values.get("train_data_dir")
    rest = {name: value for name, value in values.items() if name != MASKS}
    if not masks or not images:
        return rest
    rest.pop("train_data_dir")
    subset = {"image_dir": images, "conditioning_data_dir": masks}
    file = folder / FILE
    with reporting_disk_errors(file), atomic_write(file) as part:
        part.write_text(json.dumps({"datasets": [{"subsets": [subset]}]}), encoding="utf-8")
    return {**rest, "dataset_config": str(file), "masked_loss": True}


def mask_of(image: Path, masks: str) -> Path | None:
    """Return the mask of an image, which has its name up to the extension; None if there is none."""
    files = (Path(masks) / f"{image.stem}{ending}" for ending in ENDINGS) if masks else ()
    return next((file for file in files if file.is_file()), None)
