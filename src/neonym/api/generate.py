"""Prompts to images, in one call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image

from neonym.api.wording import speaking_python
from neonym.errors import ConfigError, FormatError, Problem
from neonym.generation.embeddings import add_embedding, read_given, word_and_file
from neonym.generation.images import generate_images
from neonym.generation.samplers import sampler_name
from neonym.models.model import Model, load_model
from neonym.models.source import BUILTIN
from neonym.types import Embedding, Size

Word = str | Path | Embedding


def generate(
    prompts: str | Sequence[str],
    words: Iterable[Word] = (),
    model: str | Path | Model = BUILTIN,
    *,
    seed: int = 0,
    negative_prompt: str = "",
    steps: int = 30,
    guidance: float | None = None,
    size: Size | None = None,
    sampler: str | None = None,
    batch_size: int = 8,
) -> list[Image.Image]:
    """Return an image for each prompt.

    Args:
        prompts: One prompt or several. Image i has the seed `seed + i`.
        words: Learned words: `Embedding`s, or embedding files. A file's name without its ending is the word; `WORD=FILE` gives
            it another name.
        model: A checkpoint file, a Diffusers folder, a hub ID, `builtin:emoji`, or a model that `load_model` returned, which
            is quicker for several calls. The words are taken out of it again.
        negative_prompt: What should not be in the images.
        steps: Sampler steps, at most as many as the sampler can take.
        guidance: The guidance scale (default: the model's own).
        size: (width, height) in pixels (default: the model's own).
        sampler: A sampler under its name in sd-scripts, AUTOMATIC1111 or ComfyUI (default: one that suits the model).
        batch_size: How many images are made together. The images do not depend on it.

    Raises ConfigError, FormatError for a word's file, ModelError for the model or a word that does not fit it.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    with speaking_python():
        check_numbers(steps, batch_size, seed)
        sampler = None if sampler is None else sampler_name(sampler)
        used = load_model(str(model), best_device()) if isinstance(model, (str, Path)) else model
        with words_added(used, words):
            return generate_images(
                used,
                texts,
                [seed + i for i in range(len(texts))],
                negative_prompt=negative_prompt,
                steps=steps,
                guidance=guidance,
                size=size,
                sampler=sampler,
                batch_size=batch_size,
            )


def check_numbers(steps: int, batch_size: int, seed: int) -> None:
    """Raise ConfigError for numbers that mean nothing."""
    least = (("steps", steps, 1), ("batch_size", batch_size, 1), ("seed", seed, 0))
    wrong = [Problem("error", f"{value} is less than {low}", name) for name, value, low in least if value < low]
    if wrong:
        raise ConfigError(wrong)


def best_device() -> str:
    """Return the fastest device that is there."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@contextmanager
def words_added(model: Model, words: Iterable[Word]) -> Iterator[None]:
    """Let the words stand in prompts within the block. Raises FormatError, ModelError."""
    added: list[str] = []
    try:
        for word in words:
            added.append(add(model, word))
        yield
    finally:
        for token in reversed(added):
            model.text.remove_word(token)


def add(model: Model, word: Word) -> str:
    """Add a word to a model and return its name. Raises FormatError, ModelError."""
    if isinstance(word, Embedding):
        name, where, embedding = word.token, f"`{word.token}`", word
    else:
        name, file = word_and_file(word)
        where, embedding = str(file), read_given(word)
    try:
        return add_embedding(model, embedding, name)
    except ValueError as error:
        fix = "Rename one of the words: WORD=FILE, or `Embedding.token`"
        raise FormatError(str(error), where, fix) from error
