"""Every setting of generation, under sd-scripts' names. `None` means: the model's own, or as the text says."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Literal

from neonym.config.rules import limit_problems
from neonym.config.run import BUILTIN, Section, group, setting
from neonym.config.sdscripts import GenerateCompat
from neonym.errors import Problem

LAST_SEED = 1 << 62
MOST_STEPS = 1000
MOST_IMAGES = 1_000_000  # of a prompt, and passes
LARGEST = 1_000_000  # pixels that SDXL is told
SCALES = (-100, 1000)  # guidance
NAMED = (  # files, folders and axes, which are not empty texts
    "ckpt", "vae", "variant", "from_file", "like", "image_path", "mask_path", "outdir", "x", "y",
    "textual_inversion_embeddings", "network_weights",
)  # fmt: skip
NOISE = {  # probabilities, what else they need, and its limits
    "noise_offset_prob": ("noise_offset_range", (-10, 10)),
    "pyramid_noise_prob": ("pyramid_noise_discount_range", (0, 1)),
}


class GenerateSettings(Section):
    """The flags of `neonym generate`, `gen_img_diffusers.py` and `gen_img.py`."""

    ckpt: str = setting(
        BUILTIN,
        "The model: a checkpoint file, a Diffusers folder, a hub ID, a pattern for one file, or the built-in one.",
    )
    vae: str | None = setting(None, "A VAE to use instead of the model's: a file, a Diffusers folder or a hub ID.")
    variant: str | None = setting(
        None, "Which weights of a Diffusers folder or hub ID to use where a part has several, such as fp16."
    )
    offline: bool = setting(False, "Never use the network, not even for a hub ID.")
    sdxl: bool = setting(False, "Say that the model is an SDXL; it is recognised without, and checked.")
    v1: bool = setting(False, "Say that the model is a Stable Diffusion 1.x; it is recognised without, and checked.")
    v2: bool = setting(False, "Say that the model is a Stable Diffusion 2.x; it is recognised without, and checked.")
    v_parameterization: bool = setting(False, "Say that the model predicts v: for files that do not say it themselves.")
    zero_terminal_snr: bool = setting(False, "Begin at pure noise (betas rescaled to zero terminal SNR).")
    clip_skip: int = setting(1, "Text encoder layer, counted from the end, as in training.", least=1)

    textual_inversion_embeddings: tuple[str, ...] = setting(
        (), "Embedding files. The word is the file name without ending; WORD=FILE gives another one."
    )
    network_weights: tuple[str, ...] = setting((), "LoRA files (kohya's or diffusers' layout).")
    network_mul: tuple[float, ...] = setting((), "How much each LoRA counts (default: 1).")
    network_merge: bool = setting(False, "Merge the LoRAs into the weights: faster, and `--am` has no effect.")
    network_show_meta: bool = setting(False, "Print the metadata of the LoRA files.")

    prompt: tuple[str, ...] = setting(
        (),
        'What to draw, with inline options such as `--n blurry --d 1`; several: `--prompt "a cat" "a dog"`.',
    )
    negative_prompt: str = setting("", "What not to draw, where a prompt has no `--n`.")
    from_file: str | None = setting(
        None, "Text file with a prompt on each line; blank lines and `#` lines are passed over."
    )
    interactive: bool = setting(False, "Ask for prompts, one after the other, until the input ends.")
    like: str | None = setting(None, "An image that this program made: draw it again. Flags that are given change it.")
    images_per_prompt: int = setting(
        1, "Images of each prompt; a prompt with {e$$...} decides itself.", least=1, most=MOST_IMAGES
    )
    n_iter: int = setting(1, "How often all prompts are gone through.", least=1, most=MOST_IMAGES)
    shuffle_prompts: bool = setting(False, "Another order of the prompts each time.")
    max_embeddings_multiples: int | None = setting(
        None, "How many parts of 75 tokens a prompt may have (default: as many as it needs, at most 8).", least=1
    )
    emb_normalize_mode: Literal["original", "none", "abs"] = setting(
        "original",
        "After weights in a prompt: keep the mean of the text's numbers, keep nothing, keep their mean size.",
    )

    steps: int = setting(50, "Sampler steps.", least=1)
    sampler: str = setting(
        "ddim",
        "Sampler; sd-scripts', AUTOMATIC1111's and ComfyUI's names are known (rectified flows: euler, if none is given).",
    )
    scale: float | None = setting(None, "Guidance scale (default: the model's own, mostly 7.5); up to 1: no guidance.")
    negative_scale: float | None = setting(None, "Guidance away from the negative prompt, apart from --scale.")
    guidance_rescale: float = setting(
        0.0, "Share of guidance whose contrast is brought back (Lin et al. 2023).", least=0
    )
    W: int | None = setting(None, "Width (default: the model's own).")
    H: int | None = setting(None, "Height (default: the model's own).")
    seed: int | None = setting(None, "Seed of the first image, the next has the next (default: by chance).", least=0)
    iter_same_seed: bool = setting(False, "All images of one pass have the same seed.")
    original_width: int | None = setting(
        None, "SDXL: original width that the model is told (default: the image's).", least=1, most=LARGEST
    )
    original_height: int | None = setting(None, "SDXL: original height that the model is told.", least=1, most=LARGEST)
    original_width_negative: int | None = setting(
        None, "SDXL: the same for the negative prompt.", least=1, most=LARGEST
    )
    original_height_negative: int | None = setting(
        None, "SDXL: the same for the negative prompt.", least=1, most=LARGEST
    )
    crop_top: int = setting(0, "SDXL: upper edge of the cut that the model is told.", least=0, most=LARGEST)
    crop_left: int = setting(0, "SDXL: left edge of the cut that the model is told.", least=0, most=LARGEST)
    noise_offset_prob: float = setting(0.0, "Share of images whose first noise gets an offset.", least=0)
    noise_offset_range: tuple[float, float] | None = setting(None, "The offset's strength is drawn between these two.")
    pyramid_noise_prob: float = setting(0.0, "Share of images whose first noise gets coarser noise added.", least=0)
    pyramid_noise_discount_range: tuple[float, float] | None = setting(
        None, "The coarser noise's discount is drawn between these two."
    )

    image_path: str | None = setting(None, "Image, or folder of images, to begin from (img2img).")
    mask_path: str | None = setting(None, "Mask, or folder of masks: white is drawn anew, black is kept.")
    strength: float | None = setting(
        None, "How much of an image to begin from is drawn anew, 0 to 1 (default: 0.8).", least=0
    )
    highres_fix_scale: float | None = setting(
        None, "Draw at this share of the size first, then enlarge and refine.", above=0
    )
    highres_fix_steps: int = setting(28, "Steps of the first, small image.", least=1)
    highres_fix_strength: float | None = setting(None, "Strength of the first image if it begins from one.", least=0)
    highres_fix_save_1st: bool = setting(False, "Save the first, small images too.")
    highres_fix_latents_upscaling: bool = setting(False, "Enlarge latents instead of the image.")

    batch_size: int = setting(1, "Images drawn together; the images stay the same.", least=1)
    batch_at_once: bool = setting(
        False,
        "On a CPU that rounds a batch otherwise than its images alone, predict for a batch together all the same: faster; the last bits of an image then depend on its neighbours.",
    )
    vae_batch_size: float = setting(
        1.0, "Images decoded together; below 1: share of the batch.", above=0, most=MOST_IMAGES
    )
    vae_tiling: bool = setting(False, "Decode large images in tiles, which takes less memory.")
    no_half_vae: bool = setting(False, "Keep the VAE in float32 (SDXL's always is).")
    fp16: bool = setting(False, "Compute in fp16 (not on a CPU).")
    bf16: bool = setting(False, "Compute in bf16.")
    opt_channels_last: bool = setting(False, "Memory layout with channels last (on a CPU always).")
    cpu: bool = setting(False, "Compute on the CPU.")

    outdir: str = setting("outputs/images", "Where the images go.")
    sequential_file_name: bool = setting(
        False, "Names im_000001.png and so on, going on after the files that are there."
    )
    use_original_file_name: bool = setting(False, "Begin names with the name of the image that was begun from.")
    grid: bool = setting(False, "A sheet of all images beside them.")
    x: str | None = setting(
        None,
        "Axis of a sheet: KIND=A,B,C, where KIND is checkpoint, prompt (separated by |), scale, strength, steps, seed or sampler.",
    )
    y: str | None = setting(None, "The other axis of the sheet.")


def generate_problems(settings: GenerateSettings) -> Iterator[Problem]:
    """Flags out of their limits, and flags that contradict each other."""
    for name in empty_names(settings):
        yield Problem("error", "is empty", f"--{name}", "Give it a value, or leave it out")
    settings = without_empty(settings)
    for name, field in type(settings).model_fields.items():
        yield from limit_problems(name, field, getattr(settings, name))
    for name in ("strength", "highres_fix_strength", "highres_fix_scale", "guidance_rescale", *NOISE):
        if (value := getattr(settings, name)) is not None and value > 1:
            yield Problem("error", f"{value} is more than 1", f"--{name}")
    if settings.seed is not None and settings.seed > LAST_SEED:
        yield Problem("error", f"{settings.seed} is more than {LAST_SEED}", "--seed")
    for name in ("steps", "highres_fix_steps"):
        if getattr(settings, name) > MOST_STEPS:
            yield Problem("error", f"{getattr(settings, name)} is more than {MOST_STEPS}", f"--{name}")
    if settings.iter_same_seed and settings.images_per_prompt > 1:
        what = f"the {settings.images_per_prompt} images of a prompt are the same, unless it has --d"
        yield Problem("warning", what, "--iter_same_seed", "Leave it out, or --images_per_prompt")
    kinds = [name for name in ("v1", "v2", "sdxl") if getattr(settings, name)]
    if len(kinds) > 1:
        yield Problem("error", f"a model is not both {' and '.join(kinds)}", " ".join(f"--{name}" for name in kinds))
    if settings.fp16 and settings.bf16:
        yield Problem("error", "only one of them is possible", "--fp16 --bf16")
    if settings.mask_path and settings.image_path is None:
        yield Problem("error", "there is no image that is masked", "--mask_path", "Give --image_path too")
    if len(settings.network_mul) > len(settings.network_weights):
        what = f"{len(settings.network_mul)} multipliers for {len(settings.network_weights)} LoRAs"
        yield Problem("error", what, "--network_mul")
    for probability, (needed, limits) in NOISE.items():
        pair = getattr(settings, needed)
        if getattr(settings, probability) > 0 and pair is None:
            yield Problem("error", f"needs --{needed}", f"--{probability}", "Give two numbers")
        if pair is not None and not limits[0] <= pair[0] <= pair[1] <= limits[1]:
            what = f"{pair[0]} {pair[1]} is no range from {limits[0]} to {limits[1]}"
            yield Problem("error", what, f"--{needed}", "The smaller number comes first")
    for name in ("scale", "negative_scale"):
        value = getattr(settings, name)
        if value is not None and isfinite(value) and not SCALES[0] <= value <= SCALES[1]:
            yield Problem("error", f"{value} is not from {SCALES[0]} to {SCALES[1]}", f"--{name}")
    if not all(map(isfinite, settings.network_mul)):
        yield Problem("error", "the multipliers should be finite numbers", "--network_mul")
    axes = [settings.x, settings.y]
    others = [name for name in ("interactive", "grid", "highres_fix_save_1st") if getattr(settings, name)]
    if any(axes) and others:
        yield Problem("error", "a sheet with axes does not go with it", f"--{others[0]}", "Leave one of them out")
    if any(axes) and (len(settings.prompt) > 1 or settings.from_file):
        yield Problem("warning", "a sheet with axes is of the first prompt alone", "--prompt, --from_file")
    yield from idle_problems(settings)


def empty_names(settings: GenerateSettings) -> list[str]:
    """The settings whose names are empty: a shell's variable that was not set, mostly."""
    values = {name: getattr(settings, name) for name in NAMED}
    return [name for name, value in values.items() if value == "" or (isinstance(value, tuple) and "" in value)]


def without_empty(settings: GenerateSettings) -> GenerateSettings:
    """The settings with the defaults in place of empty names."""
    defaults = {name: type(settings).model_fields[name].default for name in empty_names(settings)}
    return settings.model_copy(update=defaults)


def idle_problems(settings: GenerateSettings) -> Iterator[Problem]:
    """A warning for each flag that was changed, but that another one would have to wake."""
    for names, works, needed in conditions(settings):
        for name in () if works else names:
            if getattr(settings, name) not in (type(settings).model_fields[name].default, None):
                yield Problem("warning", f"has no effect {needed}", f"--{name}")


def conditions(settings: GenerateSettings) -> list[tuple[tuple[str, ...], bool, str]]:
    """(flags, whether they mean anything in this run, what they would need)"""
    begun, two_stages = settings.image_path is not None, settings.highres_fix_scale is not None
    alone = not (settings.x or settings.y)
    listed = not settings.interactive or bool(settings.prompt or settings.from_file)
    both = (settings.W is None) == (settings.H is None)
    return [
        (("strength",), begun or two_stages, "without --image_path or --highres_fix_scale"),
        (("highres_fix_steps", "highres_fix_save_1st", "highres_fix_latents_upscaling"), two_stages,
         "without --highres_fix_scale"),
        (("highres_fix_strength",), begun and two_stages, "without --image_path and --highres_fix_scale"),
        (("W", "H"), both or not begun or two_stages, "with --image_path, unless both --W and --H are given"),
        (("noise_offset_range",), settings.noise_offset_prob > 0, "without --noise_offset_prob"),
        (("pyramid_noise_discount_range",), settings.pyramid_noise_prob > 0, "without --pyramid_noise_prob"),
        (("noise_offset_prob", "pyramid_noise_prob"), not begun, "with --image_path"),
        (("network_merge", "network_show_meta"), bool(settings.network_weights), "without --network_weights"),
        (("use_original_file_name",), begun, "without --image_path"),
        (("sequential_file_name",), not (begun and settings.use_original_file_name), "with --use_original_file_name"),
        (("no_half_vae",), settings.fp16 or settings.bf16, "without --fp16 or --bf16"),
        (("batch_at_once", "vae_batch_size"), settings.batch_size > 1, "without --batch_size"),
        (("grid", "n_iter", "shuffle_prompts"), listed, "for prompts that are typed"),
        (("images_per_prompt", "n_iter", "shuffle_prompts", "iter_same_seed"), alone, "with --x and --y"),
    ]  # fmt: skip


class GenerateFlags(GenerateSettings):
    """With sd-scripts' flags that are no settings here."""

    compat: GenerateCompat = group(GenerateCompat)  # pyright: ignore[reportInvalidTypeForm]
