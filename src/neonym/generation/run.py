"""A run of generation: everything that can be wrong is found before a weight is read; then picture after picture."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from PIL import Image

from neonym.config.generate import GenerateSettings, generate_problems
from neonym.errors import ConfigError, Problem, UserError
from neonym.formats import read_embedding
from neonym.generation.axes import AxesSheet, plan_sheet
from neonym.generation.conditioning import PART, TextRules, read_by
from neonym.generation.embeddings import add_embedding, word_and_file
from neonym.generation.jobs import Job, Plan, batches
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

SHOWN = 20  # problems of one kind
MOST_REMEMBERED = 10_000  # prompts
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
    sheet: AxesSheet | None = None
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
        if not clean(word):
            found.append(Problem("error", "the word has no name", str(given), "Write WORD=FILE"))
        elif embedding is not None and clean(word) in map(clean, words):
            found.append(Problem("error", f"the word `{word}` is there twice", str(file), "Write WORD=FILE"))
        elif embedding is not None:
            words[word] = (file, embedding)
            if source is not None:
                found += misfits(word, file, embedding, source)
    side, scale = (source.native_size, source.guidance) if source else (512, 7.5)
    plan = Plan(settings, side, scale)
    found += plan.problems
    if source is not None and settings.clip_skip > source.text_layers:
        what = f"{settings.clip_skip} is more than the {source.text_layers} layers of the text encoder"
        found.append(Problem("error", what, "--clip_skip"))
    tried(found, lambda: check_folder(Path(settings.outdir)))
    told_sizes = [
        n for n in type(settings).model_fields if n.startswith(("original_", "crop_")) and getattr(settings, n)
    ]
    if told_sizes and source is not None and source.family != "sdxl":
        found.append(Problem("warning", "only SDXL is told sizes", ", ".join(f"--{name}" for name in told_sizes)))
    sheet = tried(found, lambda: plan_sheet(settings, plan, words))
    for word, (file, embedding) in sheet.words.items() if sheet else ():
        words[word] = (file, embedding)
        found += misfits(word, file, embedding, source) if source is not None else ()
    if not (settings.prompt or settings.from_file or settings.interactive or plan.sources or settings.x or settings.y):
        fix = 'For example --prompt "a mychar4 on a blue background"'
        found.append(Problem("error", "there is nothing to draw", "--prompt", fix))
    ready = Ready(settings, source, plan, {}, words, found, sheet)  # pyright: ignore[reportArgumentType]
    if source is None or failed(found):
        looked_through(ready)
    else:
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
    source = identify(name, settings.vae, settings.v_parameterization or None, settings.offline)
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
    wrong: list[Problem] = []
    cut: list[Problem] = []
    jobs = ready.sheet.jobs if ready.sheet else ready.plan.jobs(lambda error: wrong.extend(error.problems))
    for job in jobs:
        words, lost = look_at(job, ready)
        used |= words
        cut += lost
        ready.total += 1
    if ready.settings.from_file and not (ready.total or wrong or failed(ready.problems) or ready.settings.interactive):
        wrong.append(Problem("error", "there is no prompt in it", f"--from_file {ready.settings.from_file}"))
    ready.problems += [*some_of(wrong), *some_of(cut), *(p for p in ready.plan.problems if p not in ready.problems)]
    return used


def some_of(problems: list[Problem]) -> list[Problem]:
    """The first ones, and how many there are more."""
    if len(problems) <= SHOWN:
        return problems
    more = Problem(problems[0].severity, f"and {len(problems) - SHOWN} more like these")
    return [*problems[:SHOWN], more]


def look_at(job: Job, ready: Ready) -> tuple[set[str], list[Problem]]:
    """-> the words in its prompts, and a warning for a prompt that is cut"""
    used: set[str] = set()
    warnings: list[Problem] = []
    rules = TextRules(ready.settings.max_embeddings_multiples)
    for text in dict.fromkeys((job.prompt, job.negative_prompt)):
        if text in ready.told:
            continue
        read = [read_by(tokenizer, text, rules) for tokenizer in ready.tokenizers.values()]
        used = used.union(*(words for words, _ in read))
        if lost := max((lost for _, lost in read), default=0):
            fix = "Raise --max_embeddings_multiples, or say it shorter"
            warnings.append(Problem("warning", f"{lost} tokens at the end are cut off", f'"{text[:60]}"', fix))
        if len(ready.told) < MOST_REMEMBERED:
            ready.told.add(text)
    return used, warnings


def check_folder(folder: Path) -> None:
    """Raises UserError if nothing can be written there. What was made for the check is removed."""
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        fix = "Choose another folder"
        raise UserError(f"cannot be written to ({error.strerror})", f"--outdir {folder}", fix) from error
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()


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

    def draw_batch(self, batch: list[Job]) -> Iterator[tuple[Path, Image.Image]]:
        try:
            stages = self.painter.paint_both(batch)
        except (MemoryError, torch.OutOfMemoryError) as error:
            fix = "Use a smaller size, --batch_size 1, --vae_tiling or --bf16"
            raise UserError(
                "the memory does not suffice", f"{batch[0].width} x {batch[0].height} pixels", fix
            ) from error
        marks = [""] if len(stages) == 1 else ["0", "1"]
        for i, job in enumerate(batch):
            number = self.done
            self.done += 1
            for mark, pictures in zip(marks, stages, strict=True):
                if mark != "0" or self.settings.highres_fix_save_1st:
                    path = self.names.path(job, number, mark)
                    drawn = self.painter.small(job) if mark == "0" else job
                    save_picture(pictures[i], path, texts(drawn, self.facts, mark))
                    yield path, pictures[i]

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


def facts(ready: Ready, device: str) -> Facts:
    """What every picture says of the model and the words."""
    source = ready.source
    hashes = {"text_hash": source.text_hash(), "vae_hash": source.vae_hash()}
    model = {"name": source.name, "family": source.family, **hashes}
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
