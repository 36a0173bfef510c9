"""`neonym generate`, which is also `gen_img_diffusers.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from neonym.config.commandline import parse_flags
from neonym.config.run import BUILTIN
from neonym.errors import UserError

DESCRIPTION = "Make pictures, with learned words in the prompts. The word is the file name without ending."


class GenerateFlags(BaseModel):
    """The flags of generation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ckpt: str = Field(
        BUILTIN, description="The model: a checkpoint file, a Diffusers folder, a hub ID, or the built-in one."
    )
    textual_inversion_embeddings: tuple[str, ...] = Field((), description="Embedding files.")
    prompt: tuple[str, ...] = Field((), description="What to draw; several prompts make several pictures.")
    negative_prompt: str = Field("", description="What not to draw.")
    outdir: str = Field("outputs/images", description="Where the pictures go.")
    images_per_prompt: int = Field(1, ge=1, description="Pictures of each prompt.")
    batch_size: int = Field(8, ge=1, description="Pictures made together.")
    steps: int = Field(30, ge=1, description="Sampler steps.")
    scale: float | None = Field(None, ge=0, description="Guidance scale (default: the model's own, mostly 7.5).")
    sampler: Literal["ddim", "euler", "euler_a", "dpmsolver++"] = Field("ddim", description="Sampler.")
    W: int | None = Field(None, ge=8, description="Width (default: the model's own).")
    H: int | None = Field(None, ge=8, description="Height (default: the model's own).")
    clip_skip: int = Field(1, ge=1, description="Text encoder layer, counted from the end, as in training.")
    seed: int = Field(0, ge=0, description="Seed of the first picture; each further one has the next.")


def main(argv: list[str], prog: str) -> int:
    flags = parse_flags(GenerateFlags, argv, prog, DESCRIPTION)
    if not flags.prompt:
        raise UserError("there is nothing to draw", "--prompt", 'For example --prompt "a mychar4 on a blue background"')
    import torch
    from PIL.PngImagePlugin import PngInfo

    from neonym.generation.images import add_files, draw
    from neonym.models.family import load_model
    from neonym.words import clean

    folder = Path(flags.outdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be made ({error.strerror})", flags.outdir, "Choose another --outdir") from error
    model = load_model(flags.ckpt, "cuda" if torch.cuda.is_available() else "cpu", clip_skip=flags.clip_skip)
    words = add_files(model, flags.textual_inversion_embeddings)
    said = " ".join([*flags.prompt, flags.negative_prompt])
    used = set[str]().union(*(t.words_in(said) for t in model.tokenizers.values()))
    for word in words:
        if clean(word) not in used:
            print(f"warning: no prompt uses `{word}`")
    prompts = [p for p in flags.prompt for _ in range(flags.images_per_prompt)]
    seeds = [flags.seed + i for i in range(len(prompts))]
    side, scale = model.source.native_size, model.source.guidance if flags.scale is None else flags.scale
    pictures = draw(
        model, prompts, seeds, negative_prompt=flags.negative_prompt, steps=flags.steps, guidance=scale,
        size=(flags.W or side, flags.H or side), sampler=flags.sampler, batch_size=flags.batch_size,
    )  # fmt: skip
    for i, (prompt, seed, picture) in enumerate(zip(prompts, seeds, pictures, strict=True)):
        text = PngInfo()
        facts = {"prompt": prompt, "negative-prompt": flags.negative_prompt, "seed": seed, "steps": flags.steps}
        for key, value in {**facts, "scale": scale, "sampler": flags.sampler}.items():
            text.add_text(key, str(value))
        path = folder / f"im_{i:06d}_{seed}.png"
        picture.save(path, pnginfo=text)
        print(path)
    return 0
