"""Sample images while training: the same prompts and seeds each time, beside images without the word and with its
start.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.PngImagePlugin import PngInfo

from neonym.config.run import SampleSettings
from neonym.generation.request.prompts import SamplePrompt, prompt_json
from neonym.generation.samplers import sampler_for_sample
from neonym.io.atomic import save_png
from neonym.models.model import Model
from neonym.preflight.milestones import Milestones, is_due
from neonym.runs.outputs import sample_name, time_stamp
from neonym.text.words import clean, whole_word
from neonym.training.concept import Concept, rows_as

if TYPE_CHECKING:
    from PIL import Image

WITHOUT, BEFORE = "without the words", "with the starting words"


def without(prompt: str, words: Sequence[str]) -> str:
    """Return the prompt with the new words cut out."""
    cut = whole_word(tuple(clean(word) for word in words)).sub(" ", clean(prompt))
    return " ".join(cut.split())


class Sampler:
    """Generates images from `--sample_prompts`. It touches no state of the training, which is the same without it."""

    def __init__(self, settings: SampleSettings, prompts: Sequence[SamplePrompt], folder: Path, name: str):
        self.settings, self.prompts, self.folder, self.name = settings, prompts, folder, name
        self.before: list[tuple[str, list[Image.Image]]] = []  # generated once: what the word is compared with

    def tag(self, done: int, milestones: Milestones) -> str | None:
        """Return sd-scripts' mark of an epoch or a step at which images are due; None if none are."""
        if not self.prompts:
            return None
        epoch = milestones.epoch_ends(done)
        if done == 0:
            return "e000000" if self.settings.sample_at_first else None
        if (self.settings.sample_every_n_epochs or 0) > 0:
            return f"e{epoch:06d}" if epoch and is_due(self.settings.sample_every_n_epochs, epoch) else None
        return f"{done:06d}" if is_due(self.settings.sample_every_n_steps, done) else None

    def draw(self, model: Model, concepts: Sequence[Concept], tag: str) -> list[Path]:
        """Generate every prompt. Return the files, named as sd-scripts names them, and last the sheet of all of them."""
        from neonym.generation.sheets import contact_sheet

        self.prompts = [prompt.on_grid(model.source.latents.multiple) for prompt in self.prompts]
        where, kind = model.vae.device, model.vae.dtype
        try:
            if not self.before:
                plain = [without(asked.prompt, [c.token for c in concepts]) for asked in self.prompts]
                without_words = self.images(model, plain)
                with rows_as(concepts, [c.start for c in concepts]):
                    self.before = [(WITHOUT, without_words), (BEFORE, self.images(model))]
            with rows_as(concepts, [c.result() for c in concepts]):
                images = self.images(model)
        finally:
            model.vae.to(where, kind)
        self.folder.mkdir(parents=True, exist_ok=True)
        files = [self.save(image, i, tag) for i, image in enumerate(images)]
        page = self.folder / f"{self.name}_{tag}_sheet.png"
        rows = [*self.before, (f"now ({tag})", images)]
        save_png(contact_sheet(rows, side=images[0].height), page)
        return [*files, page]

    def images(self, model: Model, texts: Sequence[str] | None = None) -> list[Image.Image]:
        """Return one image of each prompt, or of other texts with the prompts' settings."""
        texts = texts or [asked.prompt for asked in self.prompts]
        return [self.image(model, index, text) for index, text in enumerate(texts)]

    def image(self, model: Model, index: int, text: str) -> Image.Image:
        from neonym.generation.images import generate_images

        asked = self.prompts[index]
        side = model.source.native_size
        sampler = sampler_for_sample(asked.sample_sampler or self.settings.sample_sampler, model.source.family.process)
        return generate_images(
            model, [text], [self.seed(index)], negative_prompt=asked.negative_prompt, steps=asked.sample_steps,
            guidance=asked.scale, size=(asked.width or side, asked.height or side),
            sampler=sampler,
        )[0]  # fmt: skip

    def seed(self, index: int) -> int:
        """Return the seed of a prompt: its own or its number, never a random one, so that only the word changes
        between sheets.
        """
        own = self.prompts[index].seed
        return index if own is None else own

    def save(self, image: Any, index: int, tag: str) -> Path:
        path = self.folder / sample_name(self.name, tag, index, time_stamp(), self.prompts[index].seed)
        text = PngInfo()
        text.add_text("prompt", prompt_json(self.prompts[index]))
        save_png(image, path, text)
        return path
