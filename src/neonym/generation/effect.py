"""Measure the effect of a word: the same prompts and seeds with it, with the nearest ordinary words, and without it.

A file whose vectors never left the vocabulary generates what an ordinary word generates: it "works" in every program
and does nothing. The comparison with the nearest words detects this; a comparison with no word at all does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image

from neonym.formats.fitting import fitted
from neonym.generation.conditioning import conditioning
from neonym.generation.embeddings import add_embedding
from neonym.generation.images import generate_images
from neonym.generation.judge import NOT_LEARNED, Judgement, judge
from neonym.generation.source_images import image_tensor
from neonym.generation.worth import CaptionedBatch, Rows, Worth, measure_worth
from neonym.models.encoders.rows import nearest_tokens
from neonym.models.model import Model
from neonym.models.room import room_for_vae
from neonym.types import Batch, Conditions, Embedding, TextCond

WORD, COPY = "neonymword", "neonymcopy"  # no prompt contains these names, and no syntax changes them
SAMPLES, BATCH_SIZE = 24, 8  # how many noised images the worth is measured on


@dataclass(frozen=True)
class Effect:
    """The differences between a word and what takes its place, with the images."""

    nearest: list[str]  # the nearest ordinary word to each vector
    change_from_nearest: float  # relative change of the conditioning: norm of the difference over the norm
    change_from_nothing: float
    pixels_from_nearest: float  # mean absolute difference of the images, 0..255
    pixels_from_nothing: float
    worth: Worth  # against the nearest words, on the given images or on those generated with the word
    images: dict[str, list[Image.Image]]  # label of a row of the sheet -> one image per seed

    @property
    def judgement(self) -> Judgement:
        """The verdict on the word, by the rules that a training run ends with."""
        return judge(self.worth, "the ordinary words nearest to it")

    @property
    def works(self) -> bool:
        """Whether the word does something that the nearest ordinary words do not."""
        return self.judgement.word != NOT_LEARNED


def measure_effect(
    model: Model, embedding: Embedding, prompt: str, seeds: Sequence[int], steps: int, guidance: float | None,
    images: Sequence[Image.Image] = (),
) -> Effect:  # fmt: skip
    """Generate `prompt`, in which `{}` stands for the word, and return the effect of the word.

    Its worth is measured on `images` or, if there are none, on the images generated with the word. Raises ModelError if
    the embedding does not fit the model.
    """
    embedding = fitted(embedding, model.source.family, model.source.widths)
    add_embedding(model, embedding, WORD)
    close = {
        name: nearest_tokens(model.text.vocabulary(name), rows, 1, model.text.tokenizers[name].special_ids)
        for name, rows in embedding.vectors.items()
    }
    copies = {name: model.text.vocabulary(name)[ids[:, 0].to(model.device)].float() for name, ids in close.items()}
    add_embedding(model, Embedding(COPY, copies, embedding.metadata), COPY)
    prompts = [prompt.replace("{}", text) for text in (WORD, COPY, "")]
    text = conditioning(model, prompts)
    rows = [generate_images(model, [p] * len(seeds), seeds, steps=steps, guidance=guidance) for p in prompts]
    first = next(iter(close))
    nearest = [tokens[0] for tokens in model.text.tokenizers[first].spelled(close[first].tolist())]
    learned = {name: rows.to(model.device) for name, rows in embedding.vectors.items()}
    return Effect(
        nearest,
        conditioning_change(text, 0, 1),
        conditioning_change(text, 0, 2),
        mean_pixel_difference(rows[0], rows[1]),
        mean_pixel_difference(rows[0], rows[2]),
        worth_on_images(model, images or rows[0], prompts[0], copies, learned),
        {"with the word": rows[0], f"with {' '.join(nearest)}": rows[1], "without it": rows[2]},
    )


def worth_on_images(model: Model, images: Sequence[Image.Image], caption: str, start: Rows, learned: Rows) -> Worth:
    """Return the worth of the word on images of the model's native size, noised to levels spread over 0 to 1."""
    with room_for_vae(model) as room:
        moments = torch.cat([room(partial(image_moments, model, image)) for image in images])  # [I,2C,h,w]
    side, batches = float(model.source.native_size), []
    for first in range(0, SAMPLES, BATCH_SIZE):
        which = range(first, min(first + BATCH_SIZE, SAMPLES))
        captions = [caption] * len(which)
        batch = Batch(
            moments=moments[[i % len(images) for i in which]].to(model.device),  # [B,2C,h,w]
            text=model.text.batch(captions),
            keys=[(0, 0, i) for i in which],
            levels=[(i + 0.5) / SAMPLES for i in which],
            concept=torch.zeros(len(which), dtype=torch.int64, device=model.device),
            weight=torch.ones(len(which), device=model.device),
            conditions=Conditions(torch.tensor([[side, side, 0, 0, side, side]] * len(which), device=model.device)),
        )
        batches.append(CaptionedBatch(batch, captions))
    return measure_worth(model, batches, WORD, start, learned)


def image_moments(model: Model, image: Image.Image) -> torch.Tensor:
    """Return the moments of an image's latents, float32 [1,2C,h,w] on the CPU."""
    return model.vae.encode(image_tensor(image)).float().cpu()


def conditioning_change(text: TextCond, i: int, j: int) -> float:
    """Return the distance between the conditioning of prompts `i` and `j`, divided by the norm of the latter."""
    sequence = text.sequence.float()
    return float((sequence[i] - sequence[j]).norm() / sequence[j].norm())


def mean_pixel_difference(first: Sequence[Image.Image], second: Sequence[Image.Image]) -> float:
    """Return the mean absolute difference between images, pair by pair, in levels of 0..255."""
    pairs = zip(first, second, strict=True)
    return float(np.mean([np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).mean() for a, b in pairs]))
