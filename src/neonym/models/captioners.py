"""Describe images with models from a local folder: BLIP and similar ones, and WD taggers (ONNX)."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from neonym.errors import ModelError
from neonym.extras import install_command

GENERAL, CHARACTERS = "0", "4"  # categories in selected_tags.csv; 9, the ratings, is left out
Describe = Callable[[Image.Image], str]


def load_describer(folder: Path, prompt: str, max_tokens: int, beams: int, device: str) -> Describe:
    """Load an image-to-text model of transformers (BLIP, GIT, ...) and return a function from an image to a sentence.

    Raises ModelError if the model or the device cannot be used; so does the function if the model fails.
    """
    import torch

    check_model_folder(folder)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"cannot be used ({short_reason(error)})", f"--device={device}", "Use cpu") from error
    processor, model = load_processor_and_model(folder)
    model = model.to(device).eval()

    @torch.no_grad()
    def describe(image: Image.Image) -> str:
        try:
            inputs = processor(images=image, return_tensors="pt", **({"text": prompt} if prompt else {})).to(device)
            ids = model.generate(**inputs, max_new_tokens=max_tokens, num_beams=beams)
            return processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
        except Exception as error:  # models made by others can fail in any way
            fix = "Try fewer --max_tokens, no --prompt, or --device=cpu"
            raise ModelError(f"cannot describe an image ({short_reason(error)})", str(folder), fix) from error

    return describe


def load_processor_and_model(folder: Path) -> tuple[Any, Any]:
    """Return the processor and the model. Raises ModelError if they cannot be loaded or weights are missing."""
    import transformers

    parts: Any = transformers
    quiet = parts.utils.logging
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    fix = "Name a local folder with a complete captioning model such as BLIP; nothing is downloaded"
    try:
        processor = parts.AutoProcessor.from_pretrained(folder, local_files_only=True)
        model, found = parts.AutoModelForImageTextToText.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except Exception as error:  # transformers raises many unrelated classes
        raise ModelError(f"is not a model that describes images ({short_reason(error)})", str(folder), fix) from error
    missing = sorted([*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])])
    if missing:
        what = (
            f"its weights do not match its config.json: {len(missing)} are missing or have another shape ({missing[0]})"
        )
        raise ModelError(what, str(folder), fix)
    return processor, model


def check_model_folder(folder: Path) -> None:
    """Raise ModelError if there is no such folder."""
    if not folder.is_dir():
        raise ModelError("is not a folder", str(folder), "Name a local folder with --model; nothing is downloaded")


def short_reason(error: Exception) -> str:
    """Return the first line of an error, because the messages of other libraries can fill pages."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass(frozen=True)
class Tagger:
    """A WD tagger, loaded from `model.onnx` and `selected_tags.csv` (name, category) in one folder."""

    session: Any  # onnxruntime.InferenceSession: float32 [1,H,W,3] BGR 0..255 to probabilities [1,tags]
    names: list[str]
    categories: list[str]
    side: int

    def __call__(self, image: Image.Image, threshold: float, character_threshold: float) -> list[str]:
        """Return the tags that reach the threshold of their category, most likely first, without ratings."""
        limits = {GENERAL: threshold, CHARACTERS: character_threshold}
        found = [
            (chance, tag) for chance, tag, category in zip(self.chances(image), self.names, self.categories, strict=True)
            if category in limits and chance >= limits[category]
        ]  # fmt: skip
        return [tag for _, tag in sorted(found, key=lambda row: (-row[0], row[1]))]

    def chances(self, image: Image.Image) -> np.ndarray:
        """Return the probability of each tag, [tags]."""
        pixels = np.asarray(padded_to_square(image, self.side), np.float32)[None, :, :, ::-1]  # [1,H,W,3] BGR
        name = self.session.get_inputs()[0].name
        return self.session.run(None, {name: np.ascontiguousarray(pixels)})[0][0]


def load_tagger(folder: Path) -> Tagger:
    """Load a WD tagger. Raises ModelError if it is incomplete or onnxruntime is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError("needs the package onnxruntime", str(folder), install_command("onnxruntime")) from error
    check_model_folder(folder)
    names, categories = read_tags(folder / "selected_tags.csv")
    file = folder / "model.onnx"
    try:
        session = onnxruntime.InferenceSession(str(file), providers=onnxruntime.get_available_providers())
        shape = session.get_inputs()[0].shape  # [1,H,W,3], with names for variable sizes
        tagger = Tagger(session, names, categories, shape[1] if isinstance(shape[1], int) else 448)
        count = len(tagger.chances(Image.new("RGB", (8, 8))))
    except Exception as error:  # onnxruntime raises many unrelated classes
        what = f"is not a usable tagger ({short_reason(error)})"
        raise ModelError(what, str(file), "Name a folder with a complete WD tagger") from error
    if count != len(names):
        what = f"model.onnx has {count} tags, but selected_tags.csv lists {len(names)}"
        raise ModelError(what, str(folder), "Take both files from the same model")
    return tagger


def read_tags(file: Path) -> tuple[list[str], list[str]]:
    """Return the names and the categories of tags. Raises ModelError if the file cannot be read or used."""
    fix = "Use the model's selected_tags.csv: its first line names the columns, including name and category"
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ModelError(f"cannot be read ({short_reason(error)})", str(file), fix) from error
    columns = list(rows[0]) if rows else []
    missing = [name for name in ("name", "category") if name not in columns]
    if missing:
        what = f"has no column `{'`, `'.join(missing)}` (found: {', '.join(map(str, columns)) or 'nothing'})"
        raise ModelError(what, str(file), fix)
    categories = [row["category"] for row in rows]
    if not {GENERAL, CHARACTERS} & set(categories):
        what = f"lists no tag of category {GENERAL} (general) or {CHARACTERS} (characters)"
        raise ModelError(what, str(file), fix)
    return [row["name"] for row in rows], categories


def padded_to_square(image: Image.Image, side: int) -> Image.Image:
    """Return an image centred on a white square and scaled to `side` pixels."""
    longest = max(image.size)
    square = Image.new("RGB", (longest, longest), "white")
    square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
    return square.resize((side, side), Image.Resampling.BICUBIC)
