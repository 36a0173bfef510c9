"""Prompts to pictures: diffusers' pipeline and samplers, our text with the learned rows in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from neonym.errors import FormatError, ModelError, UserError
from neonym.formats import read_embedding
from neonym.models.family import BUILTIN, Model, load_model
from neonym.types import Embedding, Size, TextCond

PLUS_PLUS = {"algorithm_type": "dpmsolver++"}
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {  # sd-scripts' name -> diffusers' scheduler and its settings
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmsolver": ("DPMSolverMultistepScheduler", PLUS_PLUS),
    "dpmsolver++": ("DPMSolverMultistepScheduler", PLUS_PLUS),
    "dpmsingle": ("DPMSolverSinglestepScheduler", PLUS_PLUS),
}
SAMPLERS |= {f"k_{name}": SAMPLERS[name] for name in ("lms", "euler", "euler_a", "dpm_2", "dpm_2_a")}


def add_embedding(model: Model, embedding: Embedding, word: str | None = None) -> str:
    """Let `word` (default: the embedding's token) stand for the learned rows. Raises ModelError if they do not fit."""
    word = word or embedding.token
    for name, rows in embedding.vectors.items():
        if name not in model.tokenizers:
            raise ModelError(f"has no encoder `{name}`, which `{word}` was learned for", model.source.name)
        width = model.vocabulary(name).shape[1]
        if rows.shape[1] != width:
            what = f"`{word}` has vectors of {rows.shape[1]} numbers, this model's words have {width}"
            raise ModelError(what, model.source.name, "Use the kind of model that it was learned with")
    model.add_word(word, {name: rows.to(model.device) for name, rows in embedding.vectors.items()})
    return word


def add_files(model: Model, files: Iterable[str | Path]) -> list[str]:
    """Add embedding files; the file name without ending is the word. -> the words"""
    words = []
    for file in files:
        try:
            words.append(add_embedding(model, read_embedding(file), Path(file).stem))
        except ValueError as error:
            raise FormatError(str(error), str(file), "Rename one of the files") from error
    return words


def make_pipeline(model: Any, sampler: str = "ddim") -> Any:
    """diffusers' pipeline of the family round the loaded parts. Raises UserError for an unknown sampler."""
    import diffusers

    if sampler not in SAMPLERS:
        raise UserError(f"`{sampler}` is not known", "--sampler", f"Known: {', '.join(SAMPLERS)}")
    name, settings = SAMPLERS[sampler]
    if float(model.process.alphas_cumprod[-1]) == 0:  # trained with zero terminal SNR: drawn with it
        settings = {**settings, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    model.vae.to(model.device, model.unet.dtype)
    parts = {"vae": model.vae, "unet": model.unet, **model.encoders}
    for encoder, tokenizer in model.tokenizers.items():
        parts[encoder.replace("text_encoder", "tokenizer")] = tokenizer.tokenizer
    if model.pipeline_class == "StableDiffusionPipeline":
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    scheduler = getattr(diffusers, name).from_config(model.scheduler.config, **settings)
    pipeline = getattr(diffusers, model.pipeline_class)(**parts, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def conditioning(model: Model, prompts: Sequence[str]) -> TextCond:
    """The prompts as the U-Net reads them."""
    rows = [model.tokenize(prompt) for prompt in prompts]
    tokens = {name: torch.stack([r[name] for r in rows]).to(model.device) for name in rows[0]}  # [B,K,L]
    weights = [w for prompt in prompts if (w := model.emphasis(prompt))]
    emphasis = {name: torch.stack([w[name] for w in weights]).to(model.device) for name in tokens} if weights else None
    return model.encode_text(tokens, emphasis)


@torch.no_grad()
def draw(
    model: Model,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    negative_prompt: str = "",
    steps: int = 30,
    guidance: float | None = None,
    size: Size | None = None,
    sampler: str = "ddim",
    batch_size: int = 8,
) -> list[Image.Image]:
    """One picture for each prompt, from its seed. Size (width, height) and guidance are by default the model's own."""
    width, height = size or (model.source.native_size, model.source.native_size)
    if width % 8 or height % 8:
        raise UserError(f"{width} x {height} is not a multiple of 8", "the size of the pictures")
    scale = model.source.guidance if guidance is None else guidance
    pipeline, pictures = make_pipeline(model, sampler), []
    for first in range(0, len(prompts), batch_size):
        part, own = list(prompts[first : first + batch_size]), seeds[first : first + batch_size]
        text, negative = conditioning(model, part), conditioning(model, [negative_prompt] * len(part))
        told = {"prompt_embeds": text.sequence, "negative_prompt_embeds": negative.sequence}
        if text.pooled is not None:
            told |= {"pooled_prompt_embeds": text.pooled, "negative_pooled_prompt_embeds": negative.pooled}
        pictures += pipeline(
            **told,
            num_inference_steps=steps, guidance_scale=scale, width=width, height=height,
            generator=[torch.Generator().manual_seed(seed) for seed in own],
        ).images  # fmt: skip
    return pictures


def generate(
    prompts: str | Sequence[str],
    embeddings: Iterable[str | Path] = (),
    model: str = BUILTIN,
    seed: int = 0,
    **options: Any,
) -> list[Image.Image]:
    """Pictures of `prompts` with the words of the embedding files; picture i has the seed `seed + i`.

    `options` are those of `draw`. Raises ModelError, FormatError.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    loaded = load_model(model, "cuda" if torch.cuda.is_available() else "cpu")
    add_files(loaded, embeddings)
    return draw(loaded, prompts, [seed + i for i in range(len(prompts))], **options)
