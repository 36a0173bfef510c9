"""Models that say what a picture shows, read from a local folder: BLIP and its kin, and the WD taggers (ONNX)."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from neonym.errors import ModelError

RATINGS, GENERAL, CHARACTERS = "9", "0", "4"  # categories in selected_tags.csv
Describe = Callable[[Image.Image], str]


def load_describer(folder: Path, prompt: str, max_tokens: int, beams: int, device: str) -> Describe:
    """An image-to-text model of transformers (BLIP, GIT, ...) from a local folder. -> picture to sentence. Raises ModelError."""
    import torch
    import transformers

    parts: Any = transformers
    try:
        processor = parts.AutoProcessor.from_pretrained(folder, local_files_only=True)
        model = parts.AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True).to(device).eval()
    except (OSError, ValueError, KeyError) as error:
        fix = "Name a local folder with a captioning model such as BLIP; nothing is downloaded"
        raise ModelError(f"is no model that describes pictures ({error})", str(folder), fix) from error

    @torch.no_grad()
    def describe(picture: Image.Image) -> str:
        inputs = processor(images=picture, return_tensors="pt", **({"text": prompt} if prompt else {})).to(device)
        ids = model.generate(**inputs, max_new_tokens=max_tokens, num_beams=beams)
        return processor.batch_decode(ids, skip_special_tokens=True)[0].strip()

    return describe


@dataclass(frozen=True)
class Tagger:
    """A WD tagger: `model.onnx` and `selected_tags.csv` (name, category) in one folder."""

    session: Any  # onnxruntime.InferenceSession: float32 [1,H,W,3] BGR 0..255 -> probabilities [1,tags]
    names: list[str]
    categories: list[str]
    side: int

    def __call__(self, picture: Image.Image, threshold: float, character_threshold: float) -> list[str]:
        """Tags above their threshold, the likeliest first; ratings are left out."""
        pixels = np.asarray(on_square(picture, self.side), np.float32)[None, :, :, ::-1]  # [1,H,W,3] BGR
        name = self.session.get_inputs()[0].name
        (chances,) = self.session.run(None, {name: np.ascontiguousarray(pixels)})
        limits = {GENERAL: threshold, CHARACTERS: character_threshold}
        found = [
            (chance, tag) for chance, tag, category in zip(chances[0], self.names, self.categories, strict=True)
            if category in limits and chance >= limits[category]
        ]  # fmt: skip
        return [tag for _, tag in sorted(found, key=lambda row: (-row[0], row[1]))]


def load_tagger(folder: Path) -> Tagger:
    """Raises ModelError."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError("needs the package onnxruntime", str(folder), 'pip install "neonym[captioning]"') from error
    try:
        with (folder / "selected_tags.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        names, categories = [row["name"] for row in rows], [row["category"] for row in rows]
    except (OSError, KeyError) as error:
        raise ModelError(f"has no selected_tags.csv that can be read ({error})", str(folder)) from error
    try:
        session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), providers=onnxruntime.get_available_providers()
        )
    except Exception as error:  # onnxruntime has many, without a common class
        raise ModelError(f"has no model.onnx that can be read ({error})", str(folder)) from error
    tags = session.get_outputs()[0].shape[-1]
    if isinstance(tags, int) and tags != len(names):
        raise ModelError(f"model.onnx knows {tags} tags, selected_tags.csv lists {len(names)}", str(folder))
    side = session.get_inputs()[0].shape[1]
    return Tagger(session, names, categories, side if isinstance(side, int) else 448)


def on_square(picture: Image.Image, side: int) -> Image.Image:
    """In the middle of a white square, scaled to `side`."""
    longest = max(picture.size)
    square = Image.new("RGB", (longest, longest), "white")
    square.paste(picture, ((longest - picture.width) // 2, (longest - picture.height) // 2))
    return square.resize((side, side), Image.Resampling.BICUBIC)
