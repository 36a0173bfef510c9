"""Every setting of image generation, under sd-scripts' names.

A setting whose default is `None` takes its value from elsewhere, often from the model; its help says from where.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Literal

from neonym.config.data_settings import BUILTIN
from neonym.config.limits import LARGEST, LAST_SEED, MOST_STEPS, SCALES
from neonym.config.rules import limit_problems
from neonym.config.schema import Section, group, setting
from neonym.config.sdscripts import GenerateCompat
from neonym.errors import Problem

MOST_IMAGES = 1_000_000  # images per prompt, and passes over the prompts
NAMED = (  # files, folders and axes: an empty text is an error
    "ckpt", "vae", "clip_l", "clip_g", "t5xxl", "qwen3", "tokenizer",
    "variant", "model_version", "from_file", "like", "image_path", "mask_path", "outdir", "x", "y",
    "textual_inversion_embeddings", "network_weights",
)  # fmt: skip
NOISE = {  # probability -> the setting that it needs, and that setting's limits
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
    clip_l: str | None = setting(None, "The file of the text encoder CLIP-L, for a transformer in a file of its own.")
    clip_g: str | None = setting(None, "The file of the text encoder CLIP-G, likewise.")
    t5xxl: str | None = setting(None, "The file of the text encoder T5-XXL, likewise.")
    qwen3: str | None = setting(None, "The file of the text encoder Qwen3, likewise.")
    text_encoders: tuple[str, ...] = setting(
        (),
        "The files of text encoders, likewise, each recognised by what is in it, so that their order does not matter.",
    )
    tokenizer: str | None = setting(
        None,
        "A folder with tokenizers to use instead of the model's: a tokenizer.json, or folders as in a Diffusers folder.",
    )
    variant: str | None = setting(
        None, "Which weights of a Diffusers folder or hub ID to use where a part has several, such as fp16."
    )
    model_version: str | None = setting(
        None,
        "Which of several models of the same shapes it is, such as turbo, base, distilled or kontext, whatever its name and "
        "metadata say. Shapes tell neither Z-Image from its Turbo nor FLUX.1 dev from Kontext.",
    )
    offline: bool = setting(False, "Never use the network, not even for a hub ID.")
    sdxl: bool = setting(
        False, "State that the model is SDXL. It is recognised without this flag; a wrong flag is an error."
    )
    v1: bool = setting(
        False,
        "State that the model is Stable Diffusion 1.x. It is recognised without this flag; a wrong flag is an error.",
    )
    v2: bool = setting(
        False,
        "State that the model is Stable Diffusion 2.x. It is recognised without this flag; a wrong flag is an error.",
    )
    v_parameterization: bool = setting(False, "State that the model predicts v, if its files do not record that.")
    zero_terminal_snr: bool = setting(
        False, "Rescale the noise schedule so that generation begins at pure noise (zero terminal SNR)."
    )
    clip_skip: int = setting(
        1, "The text encoder layer to use, counted from the end (1: the last), as in training.", least=1
    )

    textual_inversion_embeddings: tuple[str, ...] = setting(
        (),
        "Embedding files. The word in prompts is the file name without its extension; WORD=FILE chooses another word.",
    )
    network_weights: tuple[str, ...] = setting((), "LoRA files, in the layout of kohya's sd-scripts or of diffusers.")
    network_mul: tuple[float, ...] = setting((), "The multiplier of each LoRA (default: 1).")
    network_merge: bool = setting(
        False, "Merge the LoRAs into the model's weights. This is faster, but `--am` in a prompt then has no effect."
    )
    network_show_meta: bool = setting(False, "Print the metadata of the LoRA files.")

    prompt: tuple[str, ...] = setting(
        (),
        'One or more prompts, such as `--prompt "a cat" "a dog"`, with inline options such as `--n blurry --d 1`.',
    )
    negative_prompt: str = setting("", "The negative prompt of prompts without `--n`.")
    from_file: str | None = setting(
        None, "A text file with a prompt on each line. Blank lines and lines that begin with `#` are ignored."
    )
    interactive: bool = setting(False, "Ask for prompts, one after another, until the input ends.")
    like: str | None = setting(
        None, "An image that Neonym generated, to generate again. Flags on the command line override its settings."
    )
    images_per_prompt: int = setting(
        1,
        "How many images to generate for each prompt. A prompt with {e$$...} decides for itself.",
        least=1,
        most=MOST_IMAGES,
    )
    n_iter: int = setting(1, "How many passes to make over all prompts.", least=1, most=MOST_IMAGES)
    shuffle_prompts: bool = setting(False, "Shuffle the prompts anew for each pass.")
    tokenize_as: Literal["diffusers", "comfyui"] = setting(
        "diffusers",
        "Read prompts as diffusers does, or as ComfyUI: a word then needs embedding:NAME, with a space before and after it, "
        "as there. Words that are written plainly are changed to that.",
    )
    max_embeddings_multiples: int | None = setting(
        None, "How many chunks of 75 tokens a prompt may have (default: as many as it needs, at most 8).", least=1
    )
    emb_normalize_mode: Literal["original", "none", "abs"] = setting(
        "original",
        "How to rescale encoded text after emphasis is applied: original keeps its mean, abs its mean absolute value; "
        "none does not rescale.",
    )

    steps: int | None = setting(None, "The number of sampler steps (default: the model's own, usually 50).", least=1)
    sampler: str = setting(
        "ddim",
        "The sampler, by its name in sd-scripts, AUTOMATIC1111 or ComfyUI (default for rectified flows: euler).",
    )
    scale: float | None = setting(
        None, "The guidance scale (default: the model's own, usually 7.5). At 1 or below there is no guidance."
    )
    embedded_guidance: float | None = setting(
        None,
        "The guidance scale that a guidance-distilled model reads as a number (default: the model's own).",
        least=0,
    )
    negative_scale: float | None = setting(
        None, "The guidance scale away from the negative prompt, separate from --scale."
    )
    guidance_rescale: float = setting(
        0.0,
        "Guidance rescale: how much of the contrast that guidance adds to remove, 0 to 1 (Lin et al. 2023).",
        least=0,
    )
    skip_layer_guidance_scale: float | None = setting(
        None,
        "Skip-layer guidance for Stable Diffusion 3.5 medium: guide away from what the model predicts without three of its "
        "blocks, in the first fifth of the steps. 2.8 is usual (default: none).",
        least=0,
    )
    W: int | None = setting(None, "The width of the image in pixels (default: the model's own).")
    H: int | None = setting(None, "The height of the image in pixels (default: the model's own).")
    seed: int | None = setting(
        None, "The seed of the first image; each further image uses the next seed (default: random).", least=0
    )
    iter_same_seed: bool = setting(False, "Use the same seed for all images of a pass.")
    original_width: int | None = setting(
        None, "SDXL: the original width to condition on (default: the width of the image).", least=1, most=LARGEST
    )
    original_height: int | None = setting(
        None, "SDXL: the original height to condition on (default: the height of the image).", least=1, most=LARGEST
    )
    original_width_negative: int | None = setting(
        None, "SDXL: the original width for the negative prompt.", least=1, most=LARGEST
    )
    original_height_negative: int | None = setting(
        None, "SDXL: the original height for the negative prompt.", least=1, most=LARGEST
    )
    crop_top: int = setting(0, "SDXL: the top edge of the crop to condition on.", least=0, most=LARGEST)
    crop_left: int = setting(0, "SDXL: the left edge of the crop to condition on.", least=0, most=LARGEST)
    noise_offset_prob: float = setting(
        0.0, "The probability that an offset is added to the initial noise of an image.", least=0
    )
    noise_offset_range: tuple[float, float] | None = setting(
        None, "The lowest and the highest strength of that offset."
    )
    pyramid_noise_prob: float = setting(
        0.0, "The probability that pyramid noise is added to the initial noise of an image.", least=0
    )
    pyramid_noise_discount_range: tuple[float, float] | None = setting(
        None, "The lowest and the highest discount of pyramid noise."
    )

    image_path: str | None = setting(None, "An image, or a folder of images, to start from (img2img).")
    mask_path: str | None = setting(
        None, "A mask, or a folder of masks: white areas are generated anew, black areas are kept."
    )
    strength: float | None = setting(
        None, "How much of the image to start from is generated anew, 0 to 1 (default: 0.8).", least=0
    )
    highres_fix_scale: float | None = setting(
        None, "Generate at this share of the size first, then enlarge and refine.", above=0
    )
    highres_fix_steps: int = setting(28, "The number of sampler steps of the first, small image.", least=1)
    highres_fix_strength: float | None = setting(None, "The strength of the first stage, with --image_path.", least=0)
    highres_fix_save_1st: bool = setting(False, "Save the first, small images too.")
    highres_fix_latents_upscaling: bool = setting(False, "Enlarge the latents instead of the image.")

    batch_size: int = setting(1, "How many images to generate together. It does not change the images.", least=1)
    batch_at_once: bool = setting(
        False,
        "Predict for a whole batch at once even on a CPU that rounds a batch differently from single images. This is "
        "faster, but the last bits of an image then depend on the others in its batch.",
    )
    vae_batch_size: float = setting(
        1.0, "How many images to decode together; below 1: a share of the batch.", above=0, most=MOST_IMAGES
    )
    vae_tiling: bool = setting(False, "Decode large images in tiles, which takes less memory.")
    no_half_vae: bool = setting(False, "Keep the VAE in float32 (SDXL's always stays in float32).")
    fp16: bool = setting(False, "Compute in fp16; not possible on a CPU.")
    bf16: bool = setting(False, "Compute in bf16.")
    opt_channels_last: bool = setting(False, "Use the channels-last memory layout, which is always used on a CPU.")
    cuda_graphs: Literal["auto", "off"] = setting(
        "auto",
        "Record the kernels of a U-Net's prediction once for each shape, and replay them on a CUDA device, as in training.",
    )
    cpu: bool = setting(False, "Compute on the CPU.")

    outdir: str = setting("outputs/images", "The folder for the images.")
    sequential_file_name: bool = setting(False, "Name files im_000001.png and so on, continuing after existing files.")
    use_original_file_name: bool = setting(
        False, "Begin file names with the name of the image given with --image_path."
    )
    grid: bool = setting(False, "Also save all images in one grid.")
    x: str | None = setting(
        None,
        "The horizontal axis of a comparison grid: KIND=A,B,C, where KIND is checkpoint, prompt (separated by |), "
        "scale, strength, steps, seed or sampler.",
    )
    y: str | None = setting(None, "The vertical axis of the grid, written like --x.")


def generate_problems(settings: GenerateSettings) -> Iterator[Problem]:
    """Yield a problem for each flag that is out of its limits, contradicts another one or has no effect."""
    for name in empty_names(settings):
        yield Problem("error", "is empty", f"--{name}", "Set it, or leave it out")
    settings = without_empty(settings)
    for name, field in type(settings).model_fields.items():
        yield from limit_problems(name, field, getattr(settings, name))
    for name in ("strength", "highres_fix_strength", "highres_fix_scale", "guidance_rescale", *NOISE):
        if (value := getattr(settings, name)) is not None and value > 1:
            yield Problem("error", f"{value} is more than 1", f"--{name}")
    if settings.seed is not None and settings.seed > LAST_SEED:
        yield Problem("error", f"{settings.seed} is more than {LAST_SEED}", "--seed")
    for name in ("steps", "highres_fix_steps"):
        if (getattr(settings, name) or 0) > MOST_STEPS:
            yield Problem("error", f"{getattr(settings, name)} is more than {MOST_STEPS}", f"--{name}")
    if settings.iter_same_seed and settings.images_per_prompt > 1:
        what = f"makes the {settings.images_per_prompt} images of a prompt identical, unless the prompt has --d"
        yield Problem(
            "warning", what, "--iter_same_seed", "Leave out one of them: --iter_same_seed or --images_per_prompt"
        )
    kinds = [name for name in ("v1", "v2", "sdxl") if getattr(settings, name)]
    if len(kinds) > 1:
        yield Problem("error", f"a model cannot be both {' and '.join(kinds)}", " ".join(f"--{name}" for name in kinds))
    if settings.fp16 and settings.bf16:
        yield Problem("error", "only one of them can be used", "--fp16 --bf16", "Leave one of them out")
    if settings.mask_path and settings.image_path is None:
        yield Problem("error", "needs an image to mask", "--mask_path", "Add --image_path")
    if len(settings.network_mul) > len(settings.network_weights):
        what = f"{len(settings.network_mul)} multipliers for {len(settings.network_weights)} LoRAs"
        yield Problem("error", what, "--network_mul")
    for probability, (needed, limits) in NOISE.items():
        pair = getattr(settings, needed)
        if getattr(settings, probability) > 0 and pair is None:
            yield Problem("error", f"needs --{needed}", f"--{probability}", "Write two numbers")
        if pair is not None and not limits[0] <= pair[0] <= pair[1] <= limits[1]:
            what = f"{pair[0]} {pair[1]} is not a range within {limits[0]} to {limits[1]}"
            yield Problem("error", what, f"--{needed}", "Write the smaller number first")
    for name in ("scale", "negative_scale"):
        value = getattr(settings, name)
        if value is not None and isfinite(value) and not SCALES[0] <= value <= SCALES[1]:
            yield Problem("error", f"{value} is not between {SCALES[0]} and {SCALES[1]}", f"--{name}")
    if not all(map(isfinite, settings.network_mul)):
        yield Problem("error", "the multipliers must be finite numbers", "--network_mul")
    axes = [settings.x, settings.y]
    others = [name for name in ("interactive", "grid", "highres_fix_save_1st") if getattr(settings, name)]
    if any(axes) and others:
        yield Problem(
            "error", "cannot be combined with a grid with axes (--x, --y)", f"--{others[0]}", "Leave one of them out"
        )
    if any(axes) and (len(settings.prompt) > 1 or settings.from_file):
        yield Problem("warning", "only the first prompt is used for a grid with axes", "--prompt, --from_file")
    yield from ineffective_flag_warnings(settings)


def empty_names(settings: GenerateSettings) -> list[str]:
    """Return the names of settings that are empty texts, usually because a shell variable was not set."""
    values = {name: getattr(settings, name) for name in NAMED}
    return [name for name, value in values.items() if value == "" or (isinstance(value, tuple) and "" in value)]


def without_empty(settings: GenerateSettings) -> GenerateSettings:
    """Return the settings with the default in place of each empty text."""
    defaults = {name: type(settings).model_fields[name].default for name in empty_names(settings)}
    return settings.model_copy(update=defaults)


def ineffective_flag_warnings(settings: GenerateSettings) -> Iterator[Problem]:
    """Yield a warning for each flag that was changed but has no effect without another one."""
    for names, works, needed in flag_conditions(settings):
        for name in () if works else names:
            if getattr(settings, name) not in (type(settings).model_fields[name].default, None):
                yield Problem("warning", f"has no effect {needed}", f"--{name}")


def flag_conditions(settings: GenerateSettings) -> list[tuple[tuple[str, ...], bool, str]]:
    """Return rows of flags, whether they have an effect in this run, and the words for why they have none."""
    img2img, two_stages = settings.image_path is not None, settings.highres_fix_scale is not None
    alone = not (settings.x or settings.y)
    listed = not settings.interactive or bool(settings.prompt or settings.from_file)
    both = (settings.W is None) == (settings.H is None)
    return [
        (("strength",), img2img or two_stages, "without --image_path or --highres_fix_scale"),
        (("highres_fix_steps", "highres_fix_save_1st", "highres_fix_latents_upscaling"), two_stages,
         "without --highres_fix_scale"),
        (("highres_fix_strength",), img2img and two_stages, "without --image_path and --highres_fix_scale"),
        (("W", "H"), both or not img2img or two_stages, "with --image_path, unless both --W and --H are given"),
        (("noise_offset_range",), settings.noise_offset_prob > 0, "without --noise_offset_prob"),
        (("pyramid_noise_discount_range",), settings.pyramid_noise_prob > 0, "without --pyramid_noise_prob"),
        (("noise_offset_prob", "pyramid_noise_prob"), not img2img, "with --image_path"),
        (("network_merge", "network_show_meta"), bool(settings.network_weights), "without --network_weights"),
        (("use_original_file_name",), img2img, "without --image_path"),
        (("sequential_file_name",), not (img2img and settings.use_original_file_name), "with --use_original_file_name"),
        (("no_half_vae",), settings.fp16 or settings.bf16, "without --fp16 or --bf16"),
        (("batch_at_once", "vae_batch_size"), settings.batch_size > 1, "without --batch_size"),
        (("grid", "n_iter", "shuffle_prompts"), listed, "for prompts that are entered with --interactive"),
        (("images_per_prompt", "n_iter", "shuffle_prompts", "iter_same_seed"), alone, "with --x and --y"),
    ]  # fmt: skip


class GenerateFlags(GenerateSettings):
    """The flags of generation, including sd-scripts' flags that are not settings here."""

    compat: GenerateCompat = group(GenerateCompat)  # pyright: ignore[reportInvalidTypeForm]
