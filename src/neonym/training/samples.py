"""Sample images during training.

The prompts and seeds are the same each time; a sheet shows them beside images without the word and with its initial
rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL.PngImagePlugin import PngInfo

from neonym.config.output_settings import SampleSettings
from neonym.generation.request.prompts import SamplePrompt, prompt_json
from neonym.generation.samplers import sampler_for_sample
from neonym.io.atomic import save_png
from neonym.models.model import Model
from neonym.preflight.milestones import Milestones, is_due
from neonym.runs.outputs import sample_name, time_stamp
from neonym.text.words import clean, whole_word
from neonym.training.concept import Concept, temporary_rows

if TYPE_CHECKING:
    from PIL import Image

WITHOUT, BEFORE = "without the word", "before training"


def without_word(prompt: str, word: str) -> str:
    """Return the prompt with the new word removed."""
    cut = whole_word((clean(word),)).sub(" ", clean(prompt))
    return " ".join(cut.split())


class SampleRenderer:
    """A generator of images from `--sample_prompts`, which does not affect training."""

    def __init__(self, settings: SampleSettings, prompts: Sequence[SamplePrompt], folder: Path, name: str):
        self.settings, self.prompts, self.folder, self.name = settings, prompts, folder, name
        self.before: list[tuple[str, list[Image.Image]]] = []  # generated once, for comparison

    def tag(self, done: int, milestones: Milestones) -> str | None:
        """Return sd-scripts' tag for images that are due after `done` steps; None if none are."""
        if not self.prompts:
            return None
        epoch = milestones.epoch_ends(done)
        if done == 0:
            return "e000000" if self.settings.sample_at_first else None
        if (self.settings.sample_every_n_epochs or 0) > 0:
            return f"e{epoch:06d}" if epoch and is_due(self.settings.sample_every_n_epochs, epoch) else None
        return f"{done:06d}" if is_due(self.settings.sample_every_n_steps, done) else None

    def render(self, model: Model, concept: Concept, tag: str) -> list[Path]:
        """Generate an image for every prompt. Return the files, named as in sd-scripts, and then a sheet of them."""
        from neonym.generation.sheets import contact_sheet

        self.prompts = [prompt.on_grid(model.source.latents.multiple) for prompt in self.prompts]
        where, kind = model.vae.device, model.vae.dtype
        try:
            if not self.before:
                plain = [without_word(prompt.prompt, concept.token) for prompt in self.prompts]
                plain_images = self.render_all(model, plain)
                with temporary_rows(concept, concept.start):
                    self.before = [(WITHOUT, plain_images), (BEFORE, self.render_all(model))]
            with temporary_rows(concept, concept.result()):
                images = self.render_all(model)
        finally:
            model.vae.to(where, kind)
        self.folder.mkdir(parents=True, exist_ok=True)
        files = [self.save(image, i, tag) for i, image in enumerate(images)]
        page = self.folder / f"{self.name}_{tag}_sheet.png"
        rows = [*self.before, (f"now ({tag})", images)]
        save_png(contact_sheet(rows, side=images[0].height), page)
        return [*files, page]

    def render_all(self, model: Model, texts: Sequence[str] | None = None) -> list[Image.Image]:
        """Return an image for each prompt, or for other `texts` with the settings of the prompts."""
        texts = texts or [prompt.prompt for prompt in self.prompts]
        return [self.render_one(model, index, text) for index, text in enumerate(texts)]

    def render_one(self, model: Model, index: int, text: str) -> Image.Image:
        """Return an image for `text` with the settings of one prompt."""
        from neonym.generation.images import generate_images

        prompt = self.prompts[index]
        side = model.source.native_size
        sampler = sampler_for_sample(prompt.sample_sampler or self.settings.sample_sampler, model.source.family.process)
        return generate_images(
            model, [text], [self.seed(index)], negative_prompt=prompt.negative_prompt, steps=prompt.sample_steps,
            guidance=prompt.scale, embedded_guidance=prompt.guidance_scale, size=(prompt.width or side, prompt.height or side),
            sampler=sampler,
        )[0]  # fmt: skip

    def seed(self, index: int) -> int:
        """Return the seed of a prompt: its own, else its index, so that only the word changes between sheets."""
        own = self.prompts[index].seed
        return index if own is None else own

    def save(self, image: Image.Image, index: int, tag: str) -> Path:
        """Save an image as PNG with its prompt as metadata, and return the file."""
        path = self.folder / sample_name(self.name, tag, index, time_stamp(), self.prompts[index].seed)
        text = PngInfo()
        text.add_text("prompt", prompt_json(self.prompts[index]))
        save_png(image, path, text)
        return path
