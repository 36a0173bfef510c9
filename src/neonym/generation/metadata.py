"""The texts in an image file: AUTOMATIC1111's `parameters`, sd-scripts' keys, and a record to generate it again."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from neonym._version import __version__
from neonym.config.generate import GenerateSettings
from neonym.data.images import inspect_image
from neonym.errors import DataError, UserError
from neonym.generation.image_files import KEY, texts_in
from neonym.generation.request.jobs import Job
from neonym.generation.request.prompt_sources import escape_variants
from neonym.generation.samplers import spacing_title, title
from neonym.models.loading.weight_files import ENDINGS
from neonym.models.registry import family_named
from neonym.text.words import clean, whole_word

BATCH_SETTINGS = {"batch_at_once", "vae_batch_size"}  # recorded, but an image is always regenerated on its own
RUN_SETTINGS = {  # they concern the run, not a single image
    "prompt", "from_file", "interactive", "like", "images_per_prompt", "n_iter", "shuffle_prompts", "iter_same_seed",
    "batch_size", "outdir", "sequential_file_name", "use_original_file_name", "grid", "x", "y", "offline",
    "network_show_meta", "textual_inversion_embeddings",
}  # fmt: skip
SMALL, LARGE = "0", "1"  # the first and the second of two stages; "" if there is only one
NEGATIVE = re.compile(r"^(\s*)Negative prompt:", re.MULTILINE)


@dataclass(frozen=True)
class RunFacts:
    """The part of the record that is the same for all images of a run."""

    model: dict[str, str]  # name, family, text_hash, vae_hash, and sha256 of a checkpoint file
    words: dict[str, dict[str, Any]]  # word -> file, sha256, vectors
    networks: list[dict[str, str]]
    settings: dict[str, Any]  # those that differ from their defaults
    device: str


def recorded_settings(settings: GenerateSettings) -> dict[str, Any]:
    """Return the settings that affect an image and differ from their defaults."""
    values = settings.model_dump()
    return {
        name: value for name, value in values.items()
        if name not in RUN_SETTINGS and value != type(settings).model_fields[name].default
    }  # fmt: skip


def image_texts(job: Job, facts: RunFacts, stage: str = "", small: Job | None = None) -> dict[str, str]:
    """Return the texts for the image file of a job, by key.

    `stage` is SMALL or LARGE if there are two stages; for LARGE, `small` is the job of the first stage.
    """
    found = {
        "parameters": parameters_text(job, facts, small), "prompt": job.prompt, "negative-prompt": job.negative_prompt,
        "seed": str(job.seed), "sampler": job.sampler, "steps": str(job.steps), "scale": str(job.scale),
        "raw-prompt": job.raw_prompt,
    }  # fmt: skip
    if job.negative_scale is not None:
        found["negative-scale"] = str(job.negative_scale)
    if job.clip_prompt:
        found["clip-prompt"] = job.clip_prompt
    family = family_named(facts.model["family"])
    if family and family.reads_sizes:
        found |= {
            "original-height": str(job.original_height or job.height),
            "original-width": str(job.original_width or job.width),
            "original-height-negative": str(job.original_height_negative or job.original_height or job.height),
            "original-width-negative": str(job.original_width_negative or job.original_width or job.width),
            "crop-top": str(job.crop_top),
            "crop-left": str(job.crop_left),
        }
    images = {file: image_hash(file) for file in (job.source, job.mask) if file is not None}
    ours = {"version": __version__, "stage": stage, "job": asdict(job), "pictures": images, **asdict(facts)}
    return found | {KEY: json.dumps(ours)}


@lru_cache(maxsize=64)
def image_hash(file: str) -> str:
    """Return the SHA-256 of an image file. Raises DataError if it cannot be read as an image."""
    return inspect_image(Path(file)).content


def parameters_text(job: Job, facts: RunFacts, small: Job | None = None) -> str:
    """Return AUTOMATIC1111's block of text: the prompt, the negative prompt, and a line of `Name: value` pairs.

    If there are two stages, `Size` and `Steps` are those of the first one.
    """
    first = small or job
    pairs: dict[str, Any] = {
        "Steps": first.steps, "Sampler": title(job.sampler), "Schedule type": spacing_title(job.sampler),
        "CFG scale": a1111_number(job.scale),
        "Distilled CFG Scale": None if job.embedded_guidance is None else a1111_number(job.embedded_guidance), "Seed": job.seed, "Size": f"{first.width}x{first.height}",
        "Model hash": facts.model.get("sha256", "")[:10], "Model": short_model_name(facts.model["name"]),
        "Denoising strength": a1111_number(job.strength) if job.source or small else None,
        "Clip skip": facts.settings.get("clip_skip"), **(hires_pairs(job, facts) if small else {}),
        "TI hashes": ", ".join(f"{word}: {facts.words[word]['sha256'][:12]}" for word in words_used(job, facts)),
        "Lora hashes": ", ".join(f"{Path(n['file']).stem}: {n['sha256'][:12]}" for n in facts.networks),
        "Version": f"Neonym {__version__}",
    }  # fmt: skip
    line = ", ".join(f"{name}: {a1111_value(value)}" for name, value in pairs.items() if value not in (None, ""))
    prompt, negative = unambiguous(job.prompt), unambiguous(job.negative_prompt)
    return "\n".join([prompt, *([f"Negative prompt: {negative}"] if negative else []), line])


def words_used(job: Job, facts: RunFacts) -> list[str]:
    """Return the learned words that occur in a job's prompts."""
    prompts = clean(f"{job.prompt} {job.negative_prompt}".replace("\\", ""))
    return [word for word in facts.words if whole_word((clean(word),)).search(prompts)]


def hires_pairs(job: Job, facts: RunFacts) -> dict[str, Any]:
    """Return the pairs that describe the second of two stages."""
    latents = facts.settings.get("highres_fix_latents_upscaling")
    upscaler = "Latent (bicubic)" if latents else "Lanczos"
    return {"Hires resize": f"{job.width}x{job.height}", "Hires steps": job.steps, "Hires upscaler": upscaler}


def unambiguous(prompt: str) -> str:
    """Return a prompt in which no line looks like the beginning of the negative prompt, without surrounding whitespace.

    Neither lowercase letters nor whitespace make a difference to the model, but readers would parse the block wrongly.
    """
    return NEGATIVE.sub(r"\1negative prompt:", prompt).strip()


def short_model_name(name: str) -> str:
    """Return the name of a model without its folder and its extension."""
    path = Path(name)
    return path.stem if path.suffix.lower() in ENDINGS else path.name


def a1111_number(number: float) -> str:
    """Return a number as AUTOMATIC1111 writes it, without `.0`."""
    return str(float(number)).removesuffix(".0")


def a1111_value(value: Any) -> str:
    """Return a value as AUTOMATIC1111 writes it, in quotes if it would otherwise break up the line."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def settings_like(file: str, given: dict[str, Any]) -> tuple[GenerateSettings, dict[str, Any]]:
    """Return the settings that generate the image of a file again, overridden by those `given`, and its record.

    Raises UserError if the file has no record or a damaged one.
    """
    try:
        text = texts_in(file).get(KEY)
    except DataError as error:
        raise UserError(error.problem.what, f"--like {file}") from error
    fix = "Only images that Neonym generated can be generated again"
    if text is None:
        raise UserError("the image has no record of how it was generated", f"--like {file}", fix)
    try:
        record = json.loads(text)
        return settings_from_record(record, given), record
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("the record of how the image was generated is damaged", f"--like {file}", fix) from error


def word_argument(word: str, file: str) -> str:
    """Return a word and its file in the form that --textual_inversion_embeddings takes."""
    return file if Path(file).stem == word else f"{word}={file}"


def settings_from_record(record: dict[str, Any], given: dict[str, Any]) -> GenerateSettings:
    """Return the settings in an image's record, overridden by those `given`.

    Raises KeyError, TypeError or ValueError for a record that Neonym did not write.
    """
    job = record["job"]
    if not {"text_hash", "name"} <= set(record["model"]) or not {"words", "networks", "device"} <= set(record):
        raise KeyError("model")
    settings = {name: value for name, value in record["settings"].items() if name not in BATCH_SETTINGS}
    if record.get("stage") == SMALL:
        settings = {name: value for name, value in settings.items() if not name.startswith("highres_fix")}
    own = {name: job[name] for name in job if name in GenerateSettings.model_fields and name != "prompt"}
    if job["source"] is None and "highres_fix_scale" not in settings:
        del own["strength"]
    own["textual_inversion_embeddings"] = tuple(
        word_argument(word, own["file"]) for word, own in record["words"].items()
    )
    own |= {"W": job["width"], "H": job["height"], "image_path": job["source"], "mask_path": job["mask"]}
    clip = f" --c {escape_variants(job['clip_prompt'])}" if job["clip_prompt"] else ""
    own["network_mul"] = tuple(job["multipliers"])
    if not {"from_file", "interactive"} & set(given):
        own["prompt"] = (escape_variants(job["prompt"]) + clip,)
    return GenerateSettings.model_validate({**settings, **own, **given})
