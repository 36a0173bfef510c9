"""Run `neonym verify`, which tests whether an embedding file has an effect on a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from pydantic import BaseModel, Field

from neonym.config.data_settings import BUILTIN
from neonym.config.flags import parse_flags
from neonym.config.limits import MOST_STEPS, SCALES
from neonym.config.rules import limit_problems
from neonym.config.schema import setting
from neonym.errors import EXIT_NOT_LEARNED, ConfigError, Problem
from neonym.generation.request.prompts import split_options
from neonym.text.emphasis import parse_emphasis
from neonym.types import ImageRules

if TYPE_CHECKING:
    from PIL.Image import Image

DESCRIPTION = (
    "Generate images from the same seeds with a word, with the nearest ordinary words, and without it, and judge the "
    "word as a training run does. The exit code is 3 if the word has no effect."
)


class VerifyFlags(BaseModel):
    """The flags of the verification."""

    file: tyro.conf.Positional[Path] = Field(description="Embedding file of any program.")
    model: str = Field(BUILTIN, description="Model that the word was learned with, or another model of its family.")
    model_version: str | None = Field(
        None, description="Which of several models of the same shapes it is, such as turbo."
    )
    offline: bool = Field(False, description="Never use the network, not even for a hub ID.")
    prompt: str = Field("a picture of a {}", description="Prompt, in which {} stands for the word.")
    seeds: int = setting(4, "Number of images of each kind.", least=1)
    steps: int = setting(30, "Sampler steps.", least=1)
    scale: float | None = setting(None, "Guidance scale (default: the model's own).")
    images: Path | None = Field(
        None,
        description="Folder of images that show what the word means (default: the images that the word generates).",
    )
    out: Path | None = Field(None, description="Grid of images to write (default: NAME-verify.png beside the file).")
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = Field(False, description="Print one JSON object.")


def main(argv: list[str], prog: str) -> int:
    """Verify an embedding file and return the exit code: 3 if the word does nothing."""
    flags = parse_flags(VerifyFlags, argv, prog, DESCRIPTION)
    if problems := list(verify_problems(flags)):
        raise ConfigError(problems)
    from neonym.formats import left_out_note, read_embedding
    from neonym.formats.fitting import fitted
    from neonym.generation.request.model_fit import embedding_misfits
    from neonym.generation.request.prepare import check_output_folder
    from neonym.models.loading.identify import identify
    from neonym.models.loading.recognise import version_notes

    embedding, word = read_embedding(flags.file), flags.file.stem
    if embedding.left_out:
        print(f"note: {left_out_note(embedding)}", file=sys.stderr)
    page = flags.out or flags.file.with_name(f"{flags.file.stem}-verify.png")
    check_output_folder(page.parent, "--out", [page.name])
    source = identify(flags.model, offline=flags.offline, version=flags.model_version)
    embedding = fitted(embedding, source.family, source.widths)
    problems = [*embedding_misfits(word, flags.file, embedding, source), *version_notes(source)]
    if any(problem.severity == "error" for problem in problems):
        raise ConfigError(problems)
    for problem in problems:
        print(f"{problem.severity}: {problem}", file=sys.stderr)
    shown = reference_images(flags.images, source.native_size) if flags.images else []
    from neonym.generation.effect import measure_effect
    from neonym.generation.file_names import free_path
    from neonym.generation.image_files import save_image
    from neonym.generation.judge import headline
    from neonym.generation.run import fastest_device
    from neonym.generation.sheets import contact_sheet
    from neonym.models.model import load_model

    model, seeds = load_model(source, fastest_device()), range(flags.seeds)
    effect = measure_effect(model, embedding, flags.prompt, seeds, flags.steps, flags.scale, shown)
    path = flags.out or free_path(page)
    save_image(contact_sheet(list(effect.images.items()), model.source.native_size), path, {})
    found = effect.judgement
    facts = {name: getattr(effect, name) for name in vars(effect) if name not in ("images", "worth")}
    facts |= {"works": effect.works, "verdict": found.word, "overpowers": found.overpowers, "reason": found.reason}
    facts |= {"worth": vars(effect.worth), "sheet": str(path)}
    if flags.as_json:
        print(json.dumps(facts, indent=1))
    else:
        does = "does something" if effect.works else "DOES NOTHING that ordinary words do not do"
        print(f"{word}: {headline(found.word, found.overpowers)}: it {does} ({found.reason})")
        print(f"  nearest ordinary words: {' '.join(effect.nearest)}")
        for other, text, pixels in (
            ("them", effect.change_from_nearest, effect.pixels_from_nearest),
            ("no word", effect.change_from_nothing, effect.pixels_from_nothing),
        ):
            print(f"  compared with {other}: text {100 * text:.1f} % different, images {pixels:.1f} of 255 levels")
        print(f"  {path}")
    return 0 if effect.works else EXIT_NOT_LEARNED


def reference_images(folder: Path, side: int) -> list[Image]:
    """Return the images of a folder, scaled and cropped to squares of `side` pixels.

    Raises ConfigError if the folder cannot be read or has no images, DataError if an image cannot be read.
    """
    from PIL import Image, ImageOps

    from neonym.data.colour import on_background
    from neonym.data.images import find_images, readable, upright

    shown = []
    try:
        files = find_images(folder)
    except OSError as error:
        raise ConfigError([Problem("error", f"cannot be read ({error.strerror})", f"--images {folder}")]) from error
    if not files:
        raise ConfigError([Problem("error", "contains no images", f"--images {folder}")])
    for file in files:
        with readable(file) as image:
            opaque = on_background(upright(image), ImageRules().background)
            shown.append(ImageOps.fit(opaque, (side, side), Image.Resampling.LANCZOS))
    return shown


def verify_problems(flags: VerifyFlags) -> Iterator[Problem]:
    """Yield errors for flags outside their limits and for a prompt that cannot be used."""
    for name, field in type(flags).model_fields.items():
        yield from limit_problems(name, field, getattr(flags, name))
    if flags.steps > MOST_STEPS:
        yield Problem("error", f"{flags.steps} is more than {MOST_STEPS}", "--steps")
    if flags.scale is not None and not SCALES[0] <= flags.scale <= SCALES[1]:
        yield Problem("error", f"{flags.scale} is not from {SCALES[0]} to {SCALES[1]}", "--scale")
    if str(flags.file) == ".":
        yield Problem("error", "the file name is empty", "FILE", "Name the embedding file")
    if options := split_options(flags.prompt)[1]:
        letters = ", ".join(f"`--{letter}`" for letter, _ in options)
        yield Problem(
            "error",
            f"{letters}: inline options work only with neonym generate",
            "--prompt",
            "Use --steps, --scale, --seeds",
        )
    if "{}" not in flags.prompt:
        yield Problem(
            "error", "the prompt has no place for the word", "--prompt", 'Write {} there: "a sticker of a {}"'
        )
    if flags.out is not None and flags.out.suffix.lower() != ".png":
        yield Problem("error", "is not a .png file", f"--out {flags.out}")
    try:
        parse_emphasis(flags.prompt.replace("{}", "word"))
    except ValueError as error:
        yield Problem("error", str(error), "--prompt", "Write a backslash before a literal bracket")
