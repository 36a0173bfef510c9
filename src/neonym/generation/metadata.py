"""What a picture file says of itself: AUTOMATIC1111's `parameters`, sd-scripts' keys, and all that is needed to draw it again."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from neonym._version import __version__
from neonym.config.generate import GenerateSettings
from neonym.data.images import inspect
from neonym.errors import DataError, UserError
from neonym.generation.image_files import KEY, texts_in
from neonym.generation.request.jobs import Job, escaped
from neonym.generation.samplers import spacing, spoken
from neonym.models.loading.weight_files import ENDINGS
from neonym.text.words import clean, whole_word

OF_A_BATCH = {"batch_at_once", "vae_batch_size"}  # recorded, but a picture is drawn again alone
OF_A_RUN = {  # settings that say nothing of one picture
    "prompt", "from_file", "interactive", "like", "images_per_prompt", "n_iter", "shuffle_prompts", "iter_same_seed",
    "batch_size", "outdir", "sequential_file_name", "use_original_file_name", "grid", "x", "y", "offline",
    "network_show_meta", "textual_inversion_embeddings",
}  # fmt: skip
SMALL, LARGE = "0", "1"  # stages, where there are two; "" where there is one
NEGATIVE = re.compile(r"^(\s*)Negative prompt:", re.MULTILINE)


@dataclass(frozen=True)
class Facts:
    """What is the same for all pictures of a run."""

    model: dict[str, str]  # name, family, text_hash, and sha256 of a checkpoint file
    words: dict[str, dict[str, Any]]  # word -> file, sha256, vectors
    networks: list[dict[str, str]]
    settings: dict[str, Any]  # that are not the default
    device: str


def settings_said(settings: GenerateSettings) -> dict[str, Any]:
    """The settings that decide pictures, and are not the default."""
    values = settings.model_dump()
    return {
        name: value for name, value in values.items()
        if name not in OF_A_RUN and value != type(settings).model_fields[name].default
    }  # fmt: skip


def texts(job: Job, facts: Facts, stage: str = "", small: Job | None = None) -> dict[str, str]:
    """Every text chunk of the picture of `job`; `small`: the first of two stages, if this is the second."""
    found = {
        "parameters": parameters(job, facts, small), "prompt": job.prompt, "negative-prompt": job.negative_prompt,
        "seed": str(job.seed), "sampler": job.sampler, "steps": str(job.steps), "scale": str(job.scale),
        "raw-prompt": job.raw_prompt,
    }  # fmt: skip
    if job.negative_scale is not None:
        found["negative-scale"] = str(job.negative_scale)
    if job.clip_prompt:
        found["clip-prompt"] = job.clip_prompt
    if facts.model["family"] == "sdxl":
        found |= {
            "original-height": str(job.original_height or job.height),
            "original-width": str(job.original_width or job.width),
            "original-height-negative": str(job.original_height_negative or job.original_height or job.height),
            "original-width-negative": str(job.original_width_negative or job.original_width or job.width),
            "crop-top": str(job.crop_top),
            "crop-left": str(job.crop_left),
        }
    pictures = {file: content_of(file) for file in (job.source, job.mask) if file is not None}
    ours = {"version": __version__, "stage": stage, "job": asdict(job), "pictures": pictures, **asdict(facts)}
    return found | {KEY: json.dumps(ours)}


@lru_cache(maxsize=64)
def content_of(file: str) -> str:
    """SHA-256 of a picture."""
    return inspect(Path(file)).content


def parameters(job: Job, facts: Facts, small: Job | None = None) -> str:
    """AUTOMATIC1111's block: the prompt, the negative prompt, a line of `Name: value`.

    Of two stages it calls the first one's size and steps `Size` and `Steps`.
    """
    first = small or job
    pairs: dict[str, Any] = {
        "Steps": first.steps, "Sampler": spoken(job.sampler), "Schedule type": spacing(job.sampler),
        "CFG scale": plain(job.scale), "Seed": job.seed, "Size": f"{first.width}x{first.height}",
        "Model hash": facts.model.get("sha256", "")[:10], "Model": model_name(facts.model["name"]),
        "Denoising strength": plain(job.strength) if job.source or small else None,
        "Clip skip": facts.settings.get("clip_skip"), **(hires(job, facts) if small else {}),
        "TI hashes": ", ".join(f"{word}: {facts.words[word]['sha256'][:12]}" for word in words_in(job, facts)),
        "Lora hashes": ", ".join(f"{Path(n['file']).stem}: {n['sha256'][:12]}" for n in facts.networks),
        "Version": f"Neonym {__version__}",
    }  # fmt: skip
    line = ", ".join(f"{name}: {quoted(value)}" for name, value in pairs.items() if value not in (None, ""))
    prompt, negative = told(job.prompt), told(job.negative_prompt)
    return "\n".join([prompt, *([f"Negative prompt: {negative}"] if negative else []), line])


def words_in(job: Job, facts: Facts) -> list[str]:
    """The words that a picture's prompts use."""
    said = clean(f"{job.prompt} {job.negative_prompt}".replace("\\", ""))
    return [word for word in facts.words if whole_word((clean(word),)).search(said)]


def hires(job: Job, facts: Facts) -> dict[str, Any]:
    """The second of two stages."""
    latents = facts.settings.get("highres_fix_latents_upscaling")
    upscaler = "Latent (bicubic)" if latents else "Lanczos"
    return {"Hires resize": f"{job.width}x{job.height}", "Hires steps": job.steps, "Hires upscaler": upscaler}


def told(prompt: str) -> str:
    """A line that begins like the negative prompt would be taken for it; a small letter means the same to the model.

    So do blanks and line breaks round the whole: a reader would keep some of them.
    """
    return NEGATIVE.sub(r"\1negative prompt:", prompt).strip()


def model_name(name: str) -> str:
    path = Path(name)
    return path.stem if path.suffix.lower() in ENDINGS else path.name


def plain(number: float) -> str:
    return str(float(number)).removesuffix(".0")


def quoted(value: Any) -> str:
    """As AUTOMATIC1111 does it: in quotes if it would break the line up."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def like(file: str, given: dict[str, Any]) -> tuple[GenerateSettings, dict[str, Any]]:
    """The settings that draw a picture again, with those `given` instead; and all that the picture says. Raises UserError."""
    try:
        text = texts_in(file).get(KEY)
    except DataError as error:
        raise UserError(error.problem.what, f"--like {file}") from error
    fix = "Only files that Neonym made can be drawn again so"
    if text is None:
        raise UserError("it does not say how it was made", f"--like {file}", fix)
    try:
        said = json.loads(text)
        return settings_of(said, given), said
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("what it says of how it was made is damaged", f"--like {file}", fix) from error


def named(word: str, file: str) -> str:
    """As --textual_inversion_embeddings has it."""
    return file if Path(file).stem == word else f"{word}={file}"


def settings_of(said: dict[str, Any], given: dict[str, Any]) -> GenerateSettings:
    """Raises KeyError, TypeError, ValueError for what Neonym did not write."""
    job = said["job"]
    if not {"text_hash", "name"} <= set(said["model"]) or not {"words", "networks", "device"} <= set(said):
        raise KeyError("model")
    settings = {name: value for name, value in said["settings"].items() if name not in OF_A_BATCH}
    if said.get("stage") == SMALL:
        settings = {name: value for name, value in settings.items() if not name.startswith("highres_fix")}
    own = {name: job[name] for name in job if name in GenerateSettings.model_fields and name != "prompt"}
    if job["source"] is None and "highres_fix_scale" not in settings:
        del own["strength"]
    own["textual_inversion_embeddings"] = tuple(named(word, told["file"]) for word, told in said["words"].items())
    own |= {"W": job["width"], "H": job["height"], "image_path": job["source"], "mask_path": job["mask"]}
    clip = f" --c {escaped(job['clip_prompt'])}" if job["clip_prompt"] else ""
    own["network_mul"] = tuple(job["multipliers"])
    if not {"from_file", "interactive"} & set(given):
        own["prompt"] = (escaped(job["prompt"]) + clip,)
    return GenerateSettings.model_validate({**settings, **own, **given})
