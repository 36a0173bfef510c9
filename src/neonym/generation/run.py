"""Run a generation: each image is written to disk as soon as it is finished."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from neonym.config.generate import GenerateSettings
from neonym.errors import Problem, UserError
from neonym.generation.conditioning import TextRules
from neonym.generation.embeddings import add_embedding
from neonym.generation.file_names import FileNames
from neonym.generation.graphs import graphs_for
from neonym.generation.image_files import save_image
from neonym.generation.lora import Networks
from neonym.generation.metadata import LARGE, SMALL, RunFacts, image_texts, recorded_settings
from neonym.generation.pipeline import Pipeline, PipelineRules
from neonym.generation.request.axes import AxesSheet
from neonym.generation.request.jobs import Job, batches
from neonym.generation.request.prepare import PreparedRun
from neonym.generation.sheets import contact_sheet
from neonym.generation.start_noise import NoiseChange
from neonym.models.loading.weight_files import hash_of_files
from neonym.models.model import device_named, load_model
from neonym.models.room import is_together
from neonym.models.source import ModelSource


class GenerationSession:
    """A loaded model with its words and LoRAs, which generates the images of jobs and writes them to files.

    `problems` holds the warnings and notes of loading, `note` gets those of later, `done` counts the finished images.
    """

    def __init__(self, ready: PreparedRun, note: Callable[[str], None] = lambda _: None):
        settings = self.settings = ready.settings
        self.names = FileNames(settings)
        device = fastest_device(settings.cpu)
        self.model = load_model(ready.source, device, compute_dtype(settings, device), clip_skip=settings.clip_skip)
        if settings.opt_channels_last:
            self.model.denoiser.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        for word, (_, embedding) in ready.words.items():
            add_embedding(self.model, embedding, word)
        self.networks = Networks(self.model, settings.network_weights, settings.network_mul, settings.network_merge)
        self.problems = [*self.networks.problems, *precision_notes(settings, self.model.dtype)]
        graphs = graphs_for(self.model, settings.cuda_graphs, note, self.networks)
        self.pipeline = Pipeline(self.model, pipeline_rules(settings), self.networks, graphs)
        self.facts = run_facts(ready, self.model.source, str(device))
        self.done = 0

    def generate(self, jobs: Iterable[Job]) -> Iterator[tuple[Path, Image.Image]]:
        """Yield each image and its file as soon as the file is written. Raises UserError."""
        for batch in batches(jobs, self.settings.batch_size):
            yield from self.generate_batch(batch)

    def generate_batch(self, batch: list[Job]) -> Iterator[tuple[Path, Image.Image]]:
        """Yield the file and the image of each of several jobs of one shape. Raises UserError."""
        if not is_together(self.model):  # after an error of which the user has read
            what = "a part of the model could not return to the GPU, whose memory was taken meanwhile"
            raise UserError(what, self.model.source.name, "Start the command again")
        try:
            stages = self.pipeline.generate_stages(batch)
        except (MemoryError, torch.OutOfMemoryError) as error:
            what, where = "there is not enough memory", f"{batch[0].width} x {batch[0].height} pixels"
            raise UserError(what, where, "Use a smaller size, --batch_size 1, --vae_tiling or --bf16") from error
        marks = [""] if len(stages) == 1 else [SMALL, LARGE]
        for i, job in enumerate(batch):
            for mark, images in zip(marks, stages, strict=True):
                if mark == SMALL and not self.settings.highres_fix_save_1st:
                    continue
                path = self.names.path(job, self.done, mark)
                save_image(images[i], path, self.texts(job, mark))
                self.done += mark != SMALL
                yield path, images[i]

    def texts(self, job: Job, mark: str) -> dict[str, str]:
        """Return the texts for a job's image file; `mark` is the stage: SMALL, LARGE, or "" if there is only one."""
        share = self.pipeline.rules.highres_scale
        small = self.pipeline.first_stage(job, share) if mark and share is not None else None
        return (
            image_texts(small, self.facts, mark)
            if small and mark == SMALL
            else image_texts(job, self.facts, mark, small)
        )

    def save_grid(self, shown: Sequence[tuple[str, Image.Image]]) -> Path:
        """Save all images of a run, with their labels, in a square grid and return its file. Raises UserError."""
        columns = math.isqrt(len(shown) - 1) + 1
        rows = [shown[i : i + columns] for i in range(0, len(shown), columns)]
        side = max(max(image.size) for _, image in shown)
        labelled = [(f"{row[0][0]}, ..." if len(row) > 1 else row[0][0], [image for _, image in row]) for row in rows]
        return self.save_sheet(contact_sheet(labelled, side), "grid")

    def generate_sheet(self, planned: AxesSheet) -> Iterator[Path]:
        """Yield the file of each image of a sheet with axes, then the file of the sheet. Raises UserError."""
        images = []
        for path, image in self.generate(planned.jobs):
            images.append(image)
            yield path
        x, y, columns = planned.x, planned.y, len(planned.x.values)
        rows = [(y.label(b) if b is not None else "", images[i * columns :][:columns]) for i, b in enumerate(y.values)]
        side = max(max(image.size) for image in images)
        yield self.save_sheet(contact_sheet(rows, side, [x.label(a) for a in x.values]), "axes")

    def save_sheet(self, page: Image.Image, kind: str) -> Path:
        """Save a sheet and return its file. Raises UserError."""
        path = self.names.sheet(kind)
        save_image(page, path, {})
        return path


def fastest_device(cpu: bool = False) -> torch.device:
    """Return the fastest device available, or the CPU if that is requested."""
    return device_named("cpu" if cpu else "auto")


def compute_dtype(settings: GenerateSettings, device: torch.device) -> torch.dtype:
    """Return the requested precision, or float32 if the device does not compute in it."""
    if settings.bf16:
        return torch.bfloat16
    return torch.float16 if settings.fp16 and device.type != "cpu" else torch.float32


def precision_notes(settings: GenerateSettings, dtype: torch.dtype) -> Iterator[Problem]:
    """Yield a note if the precision differs from the one requested."""
    if settings.fp16 and dtype != torch.float16:
        yield Problem("note", "has no effect on a CPU, which computes in float32", "--fp16")


def pipeline_rules(settings: GenerateSettings) -> PipelineRules:
    """Return the rules that the settings set for all images of a run."""
    return PipelineRules(
        text=TextRules(
            settings.max_embeddings_multiples, settings.emb_normalize_mode, settings.tokenize_as == "comfyui"
        ),
        zero_terminal_snr=settings.zero_terminal_snr,
        guidance_rescale=settings.guidance_rescale,
        skip_layer_scale=settings.skip_layer_guidance_scale,
        at_once=settings.batch_at_once,
        vae_batch_size=settings.vae_batch_size,
        vae_tiling=settings.vae_tiling,
        half_vae=not settings.no_half_vae,
        noise=noise_changes(settings),
        highres_scale=settings.highres_fix_scale,
        highres_steps=settings.highres_fix_steps,
        highres_strength=settings.highres_fix_strength,
        highres_latents=settings.highres_fix_latents_upscaling,
        progress=sys.stderr.isatty(),
    )


def noise_changes(settings: GenerateSettings) -> tuple[NoiseChange, ...]:
    """Return the changes that the settings make to the initial noise."""
    offset, pyramid = settings.noise_offset_range, settings.pyramid_noise_discount_range
    changes = [] if offset is None else [NoiseChange("offset", settings.noise_offset_prob, offset)]
    if pyramid is not None:
        changes.append(NoiseChange("pyramid", settings.pyramid_noise_prob, pyramid))
    return tuple(changes)


def run_facts(ready: PreparedRun, source: ModelSource, device: str) -> RunFacts:
    """Return the facts about the model and the words that every image file records. The hashes read the weights."""
    hashes = {"text_hash": source.text_hash(), "vae_hash": source.vae_hash()}
    model = {"name": source.name, "family": source.family.name, **hashes}
    if source.file is not None:
        model["sha256"] = hash_of_files(source.file)
    words = {
        word: {"file": str(file), "sha256": hash_of_files(file), "vectors": len(next(iter(embedding.vectors.values())))}
        for word, (file, embedding) in ready.words.items()
    }
    networks = [{"file": file, "sha256": hash_of_files(Path(file))} for file in ready.settings.network_weights]
    return RunFacts(model, words, networks, recorded_settings(ready.settings), device)


def reproduction_warnings(record: dict[str, Any], now: RunFacts) -> list[Problem]:
    """Return warnings about anything that may make an image differ when it is generated again from its record."""
    found = []
    if any(record["model"].get(key) != now.model.get(key) for key in ("text_hash", "vae_hash", "sha256")):
        found.append(Problem("warning", "the image was generated with another model", now.model["name"]))
    if record["settings"].get("batch_at_once"):
        what = "the image was generated together with others (--batch_at_once): its last bits may differ"
        found.append(Problem("warning", what, now.device))
    if record["device"] != now.device:
        what = f"the image was generated on another device ({record['device']}): small differences are possible"
        found.append(Problem("warning", what, now.device))
    hashes = {own["file"]: own["sha256"] for own in [*now.words.values(), *now.networks]}
    files = {own["file"]: own["sha256"] for own in [*record["words"].values(), *record["networks"]]}
    for file, then in {**files, **record.get("pictures", {})}.items():
        current = hashes.get(file) or (hash_of_files(Path(file)) if Path(file).is_file() else then)
        if current != then:
            found.append(Problem("warning", "the file has changed since the image was generated", file))
    return found
