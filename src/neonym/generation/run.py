"""A run of generation: picture after picture, each on the disk as soon as it is drawn."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from neonym.config.generate import GenerateSettings
from neonym.errors import Problem, UserError
from neonym.generation.conditioning import TextRules
from neonym.generation.embeddings import add_embedding
from neonym.generation.image_files import save_picture
from neonym.generation.lora import Networks
from neonym.generation.metadata import LARGE, SMALL, Facts, settings_said, texts
from neonym.generation.names import Names
from neonym.generation.pipeline import Painter, PaintRules
from neonym.generation.request.axes import AxesSheet
from neonym.generation.request.jobs import Job, batches
from neonym.generation.request.prepare import Ready
from neonym.generation.sheets import sheet
from neonym.models.loading.weight_files import hash_of_files
from neonym.models.model import load_model
from neonym.models.source import ModelSource


class Session:
    """A loaded model with its words and LoRAs, which draws jobs and writes pictures. `problems`: warnings and notes."""

    def __init__(self, ready: Ready):
        settings = self.settings = ready.settings
        self.ready, self.names = ready, Names(settings)
        device = best_device(settings.cpu)
        self.model: Any = load_model(ready.source, device, precision(settings, device), clip_skip=settings.clip_skip)
        if settings.opt_channels_last:
            self.model.denoiser.to(memory_format=torch.channels_last)
        for word, (_, embedding) in ready.words.items():
            add_embedding(self.model, embedding, word)
        self.networks = Networks(self.model, settings.network_weights, settings.network_mul, settings.network_merge)
        self.problems = [*self.networks.problems, *other_precision(settings, self.model.denoiser.dtype)]
        self.painter = Painter(self.model, paint_rules(settings), self.networks)
        self.facts = facts(ready, self.model.source, str(device))
        self.done = 0

    def draw(self, jobs: Iterable[Job]) -> Iterator[tuple[Path, Image.Image]]:
        """Draw batch after batch; a picture is on the disk before it is told. Raises UserError."""
        for batch in batches(jobs, self.settings.batch_size):
            yield from self.draw_batch(batch)

    def draw_batch(self, batch: list[Job]) -> Iterator[tuple[Path, Image.Image]]:
        try:
            stages = self.painter.paint_both(batch)
        except (MemoryError, torch.OutOfMemoryError) as error:
            fix = "Use a smaller size, --batch_size 1, --vae_tiling or --bf16"
            raise UserError(
                "the memory does not suffice", f"{batch[0].width} x {batch[0].height} pixels", fix
            ) from error
        marks = [""] if len(stages) == 1 else [SMALL, LARGE]
        for i, job in enumerate(batch):
            for mark, pictures in zip(marks, stages, strict=True):
                if mark == SMALL and not self.settings.highres_fix_save_1st:
                    continue
                path = self.names.path(job, self.done, mark)
                save_picture(pictures[i], path, self.said(job, mark))
                self.done += mark != SMALL
                yield path, pictures[i]

    def said(self, job: Job, mark: str) -> dict[str, str]:
        """The texts of a picture; `mark`: which of two stages it is."""
        small = self.painter.small(job) if mark else None
        return texts(small, self.facts, mark) if small and mark == SMALL else texts(job, self.facts, mark, small)

    def save_grid(self, shown: Sequence[tuple[str, Image.Image]]) -> Path:
        """All pictures of a run on a sheet, as many in a row as there are rows."""
        columns = math.isqrt(len(shown) - 1) + 1
        rows = [shown[i : i + columns] for i in range(0, len(shown), columns)]
        side = max(max(picture.size) for _, picture in shown)
        named = [(f"{row[0][0]}, ..." if len(row) > 1 else row[0][0], [picture for _, picture in row]) for row in rows]
        return self.save_sheet(sheet(named, side), "grid")

    def draw_sheet(self, planned: AxesSheet) -> Iterator[Path]:
        """Every picture of a sheet with axes, then the sheet."""
        pictures = []
        for path, picture in self.draw(planned.jobs):
            pictures.append(picture)
            yield path
        x, y, columns = planned.x, planned.y, len(planned.x.values)
        rows = [
            (y.label(b) if b is not None else "", pictures[i * columns :][:columns]) for i, b in enumerate(y.values)
        ]
        side = max(max(picture.size) for picture in pictures)
        yield self.save_sheet(sheet(rows, side, [x.label(a) for a in x.values]), "axes")

    def save_sheet(self, page: Image.Image, kind: str) -> Path:
        path = self.names.sheet(kind)
        save_picture(page, path, {})
        return path


def best_device(cpu: bool = False) -> torch.device:
    if not cpu and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if not cpu and torch.backends.mps.is_available() else "cpu")


def precision(settings: GenerateSettings, device: torch.device) -> torch.dtype:
    """The nearest that the device computes in."""
    if settings.bf16:
        return torch.bfloat16
    return torch.float16 if settings.fp16 and device.type != "cpu" else torch.float32


def other_precision(settings: GenerateSettings, dtype: torch.dtype) -> Iterator[Problem]:
    """A note if it is not the one that was asked for."""
    if settings.fp16 and dtype != torch.float16:
        yield Problem("note", "a CPU computes in float32", "--fp16")


def paint_rules(settings: GenerateSettings) -> PaintRules:
    offset, pyramid = settings.noise_offset_range, settings.pyramid_noise_discount_range
    return PaintRules(
        text=TextRules(settings.max_embeddings_multiples, settings.emb_normalize_mode),
        zero_terminal_snr=settings.zero_terminal_snr,
        guidance_rescale=settings.guidance_rescale,
        at_once=settings.batch_at_once,
        vae_batch_size=settings.vae_batch_size,
        vae_tiling=settings.vae_tiling,
        half_vae=not settings.no_half_vae,
        noise_offset=None if offset is None else (settings.noise_offset_prob, offset),
        pyramid_noise=None if pyramid is None else (settings.pyramid_noise_prob, pyramid),
        highres_scale=settings.highres_fix_scale,
        highres_steps=settings.highres_fix_steps,
        highres_strength=settings.highres_fix_strength,
        highres_latents=settings.highres_fix_latents_upscaling,
        progress=sys.stderr.isatty(),
    )


def facts(ready: Ready, source: ModelSource, device: str) -> Facts:
    """What every picture says of the model and the words. `source`: with its weights at hand."""
    hashes = {"text_hash": source.text_hash(), "vae_hash": source.vae_hash()}
    model = {"name": source.name, "family": source.family.name, **hashes}
    if source.file is not None:
        model["sha256"] = hash_of_files(source.file)
    words = {
        word: {"file": str(file), "sha256": hash_of_files(file), "vectors": len(next(iter(embedding.vectors.values())))}
        for word, (file, embedding) in ready.words.items()
    }
    networks = [{"file": file, "sha256": hash_of_files(Path(file))} for file in ready.settings.network_weights]
    return Facts(model, words, networks, settings_said(ready.settings), device)


def changed_since(said: dict[str, Any], now: Facts) -> list[Problem]:
    """Why a picture drawn again may be another one."""
    changed = "the file has changed since the picture was drawn"
    found = []
    if any(said["model"].get(key) != now.model.get(key) for key in ("text_hash", "vae_hash", "sha256")):
        found.append(Problem("warning", "the picture was drawn with another model", now.model["name"]))
    if said["settings"].get("batch_at_once"):
        found.append(
            Problem("warning", "the picture was drawn at once with others: its last bits may differ", now.device)
        )
    if said["device"] != now.device:
        what = f"the picture was drawn on another device ({said['device']}): small differences are possible"
        found.append(Problem("warning", what, now.device))
    hashes = {told["file"]: told["sha256"] for told in [*now.words.values(), *now.networks]}
    files = {told["file"]: told["sha256"] for told in [*said["words"].values(), *said["networks"]]}
    for file, told in {**files, **said.get("pictures", {})}.items():
        now_is = hashes.get(file) or (hash_of_files(Path(file)) if Path(file).is_file() else told)
        if now_is != told:
            found.append(Problem("warning", changed, file))
    return found
