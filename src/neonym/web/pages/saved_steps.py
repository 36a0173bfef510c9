"""The saved steps of a run as a strip of images, of which one can be made the word."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from nicegui import ui

from neonym.web.images import modified_ns
from neonym.web.library import read_word
from neonym.web.pages.frame import card, dim, picture, telling
from neonym.web.queue import PROMPTS, SETTINGS, Entry
from neonym.web.run_log import RunLog
from neonym.web.same_name import settings_in
from neonym.web.state import State
from neonym.web.trial_device import device_for

PROMPT = "a photo of {word}"
GENERATED = "generated.json"  # in the folder of an entry: the prompt and the seed of the images that were generated
SIDE = 160  # pixels of the images


class SavedSteps:
    """The saved steps of one run, in one browser tab."""

    def __init__(self, state: State, entry: Entry, log: Callable[[], RunLog]):
        self.state, self.entry, self.log = state, entry, log
        self.settings = settings_in(state.queue.folder(entry.id) / SETTINGS)
        known = state.home.read(f"queue/{entry.id}/{GENERATED}", {})
        self.prompt, self.seed = str(known.get("prompt") or self.first_prompt()), int(known.get("seed") or 1)
        self.is_generating = False

    def build(self) -> None:
        """Make the strip, which is hidden until there are steps, and the fields below it."""
        self.box = ui.column().classes("w-full gap-3")
        self.box.set_visibility(False)
        with self.box, card("Saved steps"):
            dim("The last step is not always the best: a word that has learned for long may know its images too well.")
            self.strip = ui.element("div").classes("n-strip")
            with ui.row().classes("items-center gap-2 w-full"):
                self.prompt_field = ui.input("Prompt; {word} is the word", value=self.prompt).classes("col")
                self.seed_field = ui.number("Seed", value=self.seed, min=0, precision=0).style("width: 90px")
                for field in (self.prompt_field, self.seed_field):
                    field.props("outlined dense stack-label")
                self.button = ui.button("Generate an image of each", icon="image", on_click=telling(self.generate))
                self.button.props("outline")

    def first_prompt(self) -> str:
        """Return the first prompt of the run's sample images, with {word} in the place of the word."""
        try:
            lines = (self.state.queue.folder(self.entry.id) / PROMPTS).read_text("utf-8").splitlines()
        except OSError:
            return PROMPT
        prompt = next((line.partition(" --")[0].strip() for line in lines if line.strip()), PROMPT)
        token = str(self.settings.get("token_string", ""))
        return prompt.replace(token, "{word}") if token else prompt

    def saved(self) -> list[tuple[int, Path]]:
        """Return the steps with their files, without those that somebody removed."""
        return [(step, file) for step, file in self.log().saved if file.suffix and file.is_file()]

    def image_of(self, file: Path) -> Path:
        """Return the folder of the image of a step: a place for each file, prompt, seed and model."""
        model = self.settings.get("pretrained_model_name_or_path")
        key = repr((str(file), modified_ns(file), self.prompt, self.seed, model))
        return self.state.home.folder("cache") / f"step-{sha256(key.encode('utf-8', 'replace')).hexdigest()[:32]}"

    def draw(self) -> None:
        """Show all saved steps, each with an image and a button that makes it the word."""
        self.box.set_visibility(bool(self.saved()))
        self.draw_strip()

    def draw_strip(self) -> None:
        """Show the strip. An image that was generated for this comes before a sample image of the run."""
        samples = {sample["step"]: Path(sample["files"][0]) for sample in self.log().samples if sample["files"]}
        self.strip.clear()
        with self.strip:
            for step, file in self.saved():
                with ui.column().classes("gap-1").style("min-width: 150px"):
                    own = self.image_of(file) / "00.png"
                    shown = own if own.is_file() else samples.get(step)
                    if shown is not None and shown.is_file():
                        text = f"{self.prompt}, at step {step}" if shown == own else f"sample image at step {step}"
                        picture(shown, text, SIDE)
                    ui.label(f"step {step}")
                    use = ui.button("Use this one", on_click=telling(lambda file=file: self.use(file)))
                    use.props("outline dense")
                    use.props["aria-label"] = f"use the word of step {step}"

    async def generate(self) -> None:
        """Generate one image with the word of each saved step, all with the same prompt and seed."""
        self.prompt, self.seed = self.prompt_field.value or PROMPT, int(self.seed_field.value or 0)
        device = device_for(self.state.queue, "")
        self.state.home.write(f"queue/{self.entry.id}/{GENERATED}", {"prompt": self.prompt, "seed": self.seed})
        self.is_generating = True
        self.button.disable()
        try:
            for _, file in self.saved():
                if self.strip.is_deleted:  # the tab was closed
                    return
                if not (self.image_of(file) / "00.png").is_file():
                    await self.generate_one(file, device)
                    self.draw_strip()
        finally:
            self.is_generating = False
            if not self.button.is_deleted:
                self.button.enable()
        self.draw_strip()

    async def generate_one(self, file: Path, device: str) -> None:
        """Generate the image of one step. Raises RuntimeError if that fails."""
        word = read_word(file)
        token = word.token if word else str(self.settings.get("token_string", file.stem))
        request: dict[str, Any] = {
            "prompts": [self.prompt.replace("{word}", token)], "words": [str(file)], "seed": self.seed,
            "model": str(self.settings.get("pretrained_model_name_or_path") or "builtin:emoji"),
        }  # fmt: skip
        found = await self.state.workers.generate(request, self.image_of(file), device)
        if found.error:
            raise RuntimeError(found.error)

    def use(self, file: Path) -> None:
        """Make the word of a step the word."""
        target = self.state.use(self.entry, file)
        ui.notify(f"{target.name} is now the word of {file.stem}.", type="positive")
