"""A run of generation: everything that can be wrong is found before a weight is read; then picture after picture."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from neonym.config.generate import GenerateSettings, generate_problems
from neonym.errors import ConfigError, ModelError, Problem, UserError
from neonym.formats import read_embedding
from neonym.generation.axes import Axis, axes_of
from neonym.generation.conditioning import MOST_PARTS, PART, TextRules, parts_of, plain_spelling
from neonym.generation.embeddings import add_embedding, word_and_file
from neonym.generation.jobs import Batch, Job, Plan, batches
from neonym.generation.metadata import Facts, save_picture, settings_said, texts
from neonym.generation.names import Names
from neonym.generation.networks import Networks, check_networks
from neonym.generation.painter import Painter, PaintRules
from neonym.generation.samplers import sampler_name
from neonym.generation.sheets import sheet
from neonym.models.family import ModelSource, identify, load_model, load_tokenizers, vae_path
from neonym.models.text import WordTokenizer
from neonym.models.weights import hash_of_files
from neonym.types import Embedding
from neonym.words import clean

FAMILY_FLAGS = {"v1": "sd1", "v2": "sd2", "sdxl": "sdxl"}


@dataclass
class Ready:
    """A run that was looked through. `problems` are warnings: an error is raised."""

    settings: GenerateSettings
    source: ModelSource
    plan: Plan
    tokenizers: dict[str, WordTokenizer]
    words: dict[str, tuple[Path, Embedding]]
    problems: list[Problem]
    axes: list[Axis]
    total: int = 0  # pictures, but for those that are asked for later
    told: set[str] = field(default_factory=set)  # prompts that were looked at


def prepare(settings: GenerateSettings, problems: Iterable[Problem] = ()) -> Ready:
    """Raises ConfigError with everything that is wrong."""
    found = [*problems, *generate_problems(settings)]
    settings = tried(found, lambda: settings.model_copy(update={"sampler": sampler_name(settings.sampler)})) or settings
    source = tried(found, lambda: recognised(settings))
    tried(found, lambda: check_networks(settings.network_weights))
    words: dict[str, tuple[Path, Embedding]] = {}
    for given in settings.textual_inversion_embeddings:
        word, file = word_and_file(given)
        embedding = tried(found, lambda file=file: read_embedding(file))
        if embedding is not None and word in words:
            found.append(Problem("error", f"the word `{word}` is there twice", str(file), "Write WORD=FILE"))
        elif embedding is not None:
            words[word] = (file, embedding)
            if source is not None:
                found += misfits(word, file, embedding, source)
    side, scale = (source.native_size, source.guidance) if source else (512, 7.5)
    plan = Plan(settings, side, scale)
    found += plan.problems
    told_sizes = [
        n for n in type(settings).model_fields if n.startswith(("original_", "crop_")) and getattr(settings, n)
    ]
    if told_sizes and source is not None and source.family != "sdxl":
        found.append(Problem("warning", "only SDXL is told sizes", ", ".join(f"--{name}" for name in told_sizes)))
    axes = tried(found, lambda: axes_of(settings)) or []
    own_prompts = any(axis.kind == "prompt" for axis in axes)
    if not (settings.prompt or settings.from_file or settings.interactive or plan.sources or own_prompts):
        fix = 'For example --prompt "a mychar4 on a blue background"'
        found.append(Problem("error", "there is nothing to draw", "--prompt", fix))
    ready = Ready(settings, source, plan, {}, words, found, axes)  # pyright: ignore[reportArgumentType]
    if source is not None and not failed(found):
        ready.tokenizers = load_tokenizers(source, PART)
        for word, (_, embedding) in words.items():
            for name, tokenizer in ready.tokenizers.items():
                tokenizer.add_word(word, len(embedding.vectors[name]))
        used = looked_through(ready)
        for word in words:
            if clean(word) not in used and not (settings.interactive or settings.x or settings.y):
                found.append(Problem("warning", f"no prompt uses `{word}`", str(words[word][0])))
    if failed(found):
        raise ConfigError(found)
    return ready


def failed(problems: Iterable[Problem]) -> bool:
    return any(problem.severity == "error" for problem in problems)


def tried(problems: list[Problem], attempt: Callable[[], Any]) -> Any:
    """What `attempt` gives; None if it fails, which goes to `problems`."""
    try:
        return attempt()
    except ConfigError as error:
        problems += error.problems
    except UserError as error:
        problems.append(error.problem)
    return None


def recognised(settings: GenerateSettings) -> ModelSource:
    """The model, by its header or configs. Raises UserError, also if it is of another kind than the flags say."""
    name, path = settings.ckpt, Path(settings.ckpt)
    if "*" in path.name and not path.exists():
        fitting = sorted(path.parent.glob(path.name))
        if len(fitting) != 1:
            raise UserError(f"the pattern fits {len(fitting)} files", f"--ckpt {name}", "It should fit one")
        name = str(fitting[0])
    vae_path(settings.vae)
    try:
        source = identify(name, settings.vae, settings.v_parameterization or None, settings.offline)
    except ModelError as error:
        told = error.problem
        raise ModelError(
            told.what, told.where, told.fix.replace("--pretrained_model_name_or_path", "--ckpt")
        ) from error
    for flag, family in FAMILY_FLAGS.items():
        if getattr(settings, flag) and source.family != family:
            raise UserError(f"the model is of the family {source.family}", f"--{flag}", "Leave the flag out")
    if settings.v_parameterization and source.prediction_type != "v_prediction":
        raise UserError("the model predicts noise, not v", "--v_parameterization", "Leave the flag out")
    return source


def misfits(word: str, file: Path, embedding: Embedding, source: ModelSource) -> Iterator[Problem]:
    """What keeps an embedding from fitting the model, as its configs tell."""
    fix = "Use the kind of model that it was learned with"
    for name in source.encoders:
        width = int(source.configs[name].get("hidden_size", 0))
        rows = embedding.vectors.get(name)
        if rows is None:
            yield Problem("error", f"`{word}` has no vectors for {name}, which {source.name} has", str(file), fix)
        elif rows.shape[1] != width:
            what = f"`{word}` has vectors of {rows.shape[1]} numbers, the words of {source.name} have {width}"
            yield Problem("error", what, str(file), fix)
    for name in set(embedding.vectors) - set(source.encoders):
        yield Problem("error", f"`{word}` was learned for {name}, which {source.name} has not", str(file), fix)


def looked_through(ready: Ready) -> set[str]:
    """Every job once, without drawing: mistakes and cut prompts are found. -> the words that are used"""
    used: set[str] = set()
    jobs = tried(ready.problems, lambda: [None for job in ready.plan.jobs() if [used.update(look_at(job, ready))]])
    ready.total = len(jobs or [])
    ready.problems += [p for p in ready.plan.problems if p not in ready.problems]
    return used


def look_at(job: Job, ready: Ready) -> set[str]:
    """Note a prompt that is cut. -> the words in its prompts"""
    used: set[str] = set()
    most = ready.settings.max_embeddings_multiples or MOST_PARTS
    for text in {job.prompt, job.negative_prompt} - ready.told:
        for tokenizer in ready.tokenizers.values():
            used |= tokenizer.words_in(plain_spelling(text, tokenizer.words))
            lost = sum(map(len, parts_of(tokenizer, text)[most:]))
            if lost and text not in ready.told:
                fix = "Raise --max_embeddings_multiples, or say it shorter"
                ready.problems.append(
                    Problem("warning", f"{lost} tokens at the end are cut off", f'"{text[:60]}"', fix)
                )
                ready.told.add(text)
    if len(ready.told) < 10_000:
        ready.told |= {job.prompt, job.negative_prompt}
    return used


class Session:
    """A loaded model with its words and LoRAs, which draws jobs and writes pictures."""

    def __init__(self, ready: Ready):
        settings = self.settings = ready.settings
        self.ready, self.names = ready, Names(settings)
        device = best_device(settings.cpu)
        self.model: Any = load_model(ready.source, device, precision(settings, device), PART, settings.clip_skip)
        if settings.opt_channels_last:
            self.model.unet.to(memory_format=torch.channels_last)
        for word, (_, embedding) in ready.words.items():
            add_embedding(self.model, embedding, word)
        self.networks = Networks(self.model, settings.network_weights, settings.network_mul, settings.network_merge)
        self.painter = Painter(self.model, paint_rules(settings), self.networks)
        self.facts = facts(ready, str(device))
        self.done = 0

    def draw(self, jobs: Iterable[Job]) -> Iterator[tuple[Path, Image.Image]]:
        """Draw batch after batch; a picture is on the disk before it is told. Raises UserError."""
        for batch in batches(jobs, self.settings.batch_size):
            yield from self.draw_batch(batch)

    def draw_batch(self, batch: Batch) -> Iterator[tuple[Path, Image.Image]]:
        stages = self.painter.paint_both(batch.jobs)
        marks = [""] if len(stages) == 1 else ["0", "1"]
        for i, job in enumerate(batch.jobs):
            for mark, pictures in zip(marks, stages, strict=True):
                if mark != "0" or self.settings.highres_fix_save_1st:
                    path = self.names.path(job, self.done, mark)
                    save_picture(pictures[i], path, texts(job, self.facts, mark))
                    yield path, pictures[i]
            self.done += 1

    def save_grid(self, shown: Sequence[tuple[str, Image.Image]]) -> Path:
        """All pictures of a run on a sheet, as many in a row as there are rows."""
        columns = math.isqrt(len(shown) - 1) + 1
        rows = [shown[i : i + columns] for i in range(0, len(shown), columns)]
        side = max(max(picture.size) for _, picture in shown)
        named = [(f"{row[0][0]}, ..." if len(row) > 1 else row[0][0], [picture for _, picture in row]) for row in rows]
        return self.save_sheet(sheet(named, side), "grid")

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


def paint_rules(settings: GenerateSettings) -> PaintRules:
    offset, pyramid = settings.noise_offset_range, settings.pyramid_noise_discount_range
    return PaintRules(
        text=TextRules(settings.max_embeddings_multiples, settings.emb_normalize_mode),
        zero_terminal_snr=settings.zero_terminal_snr,
        guidance_rescale=settings.guidance_rescale,
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


def facts(ready: Ready, device: str) -> Facts:
    """What every picture says of the model and the words."""
    source = ready.source
    model = {"name": source.name, "family": source.family, "text_hash": source.text_hash()}
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
    found = []
    if said["model"].get("text_hash") != now.model["text_hash"]:
        found.append(Problem("warning", "the picture was drawn with another model", now.model["name"]))
    for word, told in said["words"].items():
        if word in now.words and now.words[word]["sha256"] != told["sha256"]:
            found.append(Problem("warning", "the file has changed since the picture was drawn", told["file"]))
    return found
