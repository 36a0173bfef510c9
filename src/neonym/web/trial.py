"""A trial of words: one image for each word, prompt, strength and seed, and how they lie on a sheet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from neonym import UserError
from neonym.web.library import Word

STRENGTHS = (0.5, 0.8, 1.0, 1.2, 1.5)
MOST = 100  # images of one trial


@dataclass(frozen=True)
class Batch:
    """The images of one word with one prompt and one strength: one for each seed."""

    file: Path
    token: str
    prompt: str  # with {word} in the place of the word
    strength: float


@dataclass(frozen=True)
class Trial:
    """A plan of what is tried. Strengths lie side by side if there are several, else seeds do; all else is in rows."""

    words: tuple[Word, ...]
    prompts: tuple[str, ...]
    first_seed: int = 1
    seeds: int = 1
    strengths: tuple[float, ...] = (1.0,)
    negative: str = ""
    is_negative: bool = False  # the word is what should not be in the image

    def check(self) -> None:
        """Raise UserError if there is nothing to generate, or too much."""
        if not self.prompts:
            raise UserError("there is nothing to generate", "the prompt", "Write a prompt; {word} stands for the word")
        if self.count > MOST:
            what = f"this makes {self.count} images, and a sheet can have {MOST}"
            raise UserError(what, "the sheet", "Choose fewer seeds, prompts or strengths")

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self.words) * len(self.prompts) * len(self.strengths) * self.seeds

    def batches(self) -> Iterator[Batch]:
        """Yield what is generated at once, in the order of the sheet."""
        for word, prompt, strength in product(self.words, self.prompts, self.strengths):
            yield Batch(word.file, word.token, prompt, strength)

    def request(self, batch: Batch, model: str, steps: int) -> dict[str, Any]:
        """Return the request for the images of a batch, for `work.generate`."""
        prompt, negative = self.texts(batch)
        return {
            "prompts": [prompt] * self.seeds, "words": [str(batch.file)], "model": model, "seed": self.first_seed,
            "negative_prompt": negative, "steps": steps, "strength": batch.strength,
        }  # fmt: skip

    def texts(self, batch: Batch) -> tuple[str, str]:
        """Return the prompt and the negative prompt of a batch."""
        token = batch.token
        prompt, negative = (text.replace("{word}", token) for text in (batch.prompt, self.negative))
        if self.is_negative:
            return without(prompt, token), f"{negative}, {token}".strip(", ")
        return prompt, negative

    def heads(self) -> list[str]:
        """Return the labels of the columns."""
        if len(self.strengths) > 1:
            return [f"strength {strength:g}" for strength in self.strengths]
        return [f"seed {seed}" for seed in self.all_seeds]

    @property
    def all_seeds(self) -> range:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def rows(self, files: Mapping[Batch, tuple[Path, ...]]) -> list[tuple[str, list[Path]]]:
        """Return the rows of the sheet, with those images that are there: each with its label and its images."""
        found = []
        for word, prompt in product(self.words, self.prompts):
            own = [files.get(Batch(word.file, word.token, prompt, strength), ()) for strength in self.strengths]
            if len(self.strengths) > 1:
                for i, seed in enumerate(self.all_seeds):
                    found.append((self.label(word, prompt, seed), [images[i] for images in own if images]))
            else:
                found.append((self.label(word, prompt), list(own[0])))
        return [(label, images) for label, images in found if images]

    def label(self, word: Word, prompt: str, seed: int | None = None) -> str:
        """Return the label of a row: what is in no other row, and the prompt."""
        parts = [word.file.stem] if len(self.words) > 1 else []
        shown = self.texts(Batch(word.file, word.token, prompt, 1.0))[0]
        parts.append(f"without {word.token}: {shown}" if self.is_negative else shown)
        return ", ".join([*parts, *([f"seed {seed}"] if seed is not None else [])])


def without(prompt: str, token: str) -> str:
    """Return a prompt without a word."""
    return " ".join(prompt.replace(token, " ").split())
