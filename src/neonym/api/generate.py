"""Generation of images from prompts, in one call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from neonym.api.wording import python_wording
from neonym.errors import ConfigError, FormatError, Problem
from neonym.generation.embeddings import add_embedding, read_given, word_and_file
from neonym.generation.images import generate_images
from neonym.generation.run import fastest_device
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
        words: Learned words: `Embedding`s or embedding files. The word is the file's name without its extension, unless
            `WORD=FILE` gives it another name.
        model: A checkpoint file, a Diffusers folder, a hub ID, `builtin:emoji`, or a model from `load_model`, which is
            faster for several calls. The words are removed from it afterwards.
        negative_prompt: What should not be in the images.
        steps: The number of sampler steps, up to the maximum of the sampler.
        guidance: The guidance scale (default: the model's own).
        size: (width, height) in pixels (default: the model's own).
        sampler: A sampler, by its name in sd-scripts, AUTOMATIC1111 or ComfyUI (default: one that suits the model).
        batch_size: How many images are generated together. The images do not depend on it.

    Raises ConfigError for an invalid argument, FormatError for a word's file, and ModelError for the model or a word
    that does not fit it.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    with python_wording():
        check_numbers(steps, batch_size, seed)
        sampler = None if sampler is None else sampler_name(sampler)
        used = load_model(str(model), fastest_device()) if isinstance(model, (str, Path)) else model
        with added_words(used, words):
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
    """Raise ConfigError for numbers that are too small."""
    least = (("steps", steps, 1), ("batch_size", batch_size, 1), ("seed", seed, 0))
    wrong = [Problem("error", f"{value} is less than {low}", name) for name, value, low in least if value < low]
    if wrong:
        raise ConfigError(wrong)


@contextmanager
def added_words(model: Model, words: Iterable[Word]) -> Iterator[None]:
    """Add the words to the model for the duration of the block. Raises FormatError and ModelError."""
    added: list[str] = []
    try:
        for word in words:
            added.append(add_word(model, word))
        yield
    finally:
        for token in reversed(added):
            model.text.remove_word(token)


def add_word(model: Model, word: Word) -> str:
    """Add a word to a model, and return its name. Raises FormatError and ModelError."""
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
