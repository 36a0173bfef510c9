"""The place to try words: prompts, seeds and strengths, whose images come as one sheet."""

from __future__ import annotations

import time
from pathlib import Path

from nicegui import ui

from neonym.web import work
from neonym.web.images import file_url
from neonym.web.library import Word
from neonym.web.pages.frame import card, dim, picture, tell, telling
from neonym.web.state import State
from neonym.web.trial import STRENGTHS, Batch, Trial
from neonym.web.trial_device import choices, device_for
from neonym.web.work import local_model

MOST_SEEDS = 16
SINGLE = 160  # pixels of the thumbnails of single images


class TrialCard:
    """A place to try words, in one browser tab."""

    def __init__(self, state: State, words: list[Word]):
        self.state, self.words = state, words
        self.is_stopped = False

    def build(self) -> None:
        """Show the fields, and a place for the images."""
        with card("Try it"):
            self.prompts = ui.textarea("Prompts, one per line; {word} is the word", value="a photo of {word}")
            self.prompts.props("autogrow")
            self.build_model()
            with ui.row().classes("items-center gap-2"):
                self.seed = ui.number("First seed", value=1, min=0, precision=0)
                self.count = ui.number("Seeds", value=3, min=1, max=MOST_SEEDS, precision=0)
                self.strength = ui.number("Strength", value=1.0, min=0.5, max=1.5, step=0.05)
                self.all_strengths = ui.switch(f"compare strengths from {STRENGTHS[0]:g} to {STRENGTHS[-1]:g}")
                self.all_strengths.on_value_change(lambda event: self.strength.set_enabled(not event.value))
            with ui.expansion("More").classes("w-full"), ui.column().classes("w-full gap-2"):
                self.negative = ui.input("Negative prompt: what should not be in the images")
                self.as_negative = ui.switch("use the word as a negative prompt")
                self.steps = ui.number("Steps", value=30, min=1, max=150, precision=0)
            for field in (self.prompts, self.negative, self.model, self.device):
                field.classes("w-full")
            for field in (self.seed, self.count, self.strength, self.steps):
                field.style("width: 110px")
            for field in (self.prompts, self.negative, self.model, self.device, self.seed, self.count, self.steps,
                          self.strength):  # fmt: skip
                field.props("outlined dense stack-label")
            with ui.row().classes("items-center gap-2"):
                self.button = ui.button("Generate", icon="image", on_click=telling(self.generate))
                self.stop_button = ui.button("Stop", icon="stop", on_click=self.stop).props("outline")
                self.progress = dim("").props('role="status"')
            self.stop_button.set_visibility(False)
            self.result = ui.column().classes("w-full gap-3").props('aria-live="polite"')

    def build_model(self) -> None:
        """Show the fields of the model and of the device, of which there is a choice only with a GPU."""
        known = next((name for word in self.words if (name := local_model(word.model))), "")
        self.model = ui.select(
            {**({known: known} if known else {}), **self.state.models.names()}, value=known or None,
            label="Model", with_input=True, new_value_mode="add-unique",
        )  # fmt: skip
        devices = choices(self.state.queue)
        self.device = ui.select(devices, value="" if devices else None, label="Compute on")
        self.device.set_visibility(bool(devices))

    def trial(self) -> Trial:
        """Return what the fields describe. Raises UserError if that cannot be generated."""
        trial = Trial(
            words=tuple(self.words),
            prompts=tuple(line.strip() for line in (self.prompts.value or "").splitlines() if line.strip()),
            first_seed=int(self.seed.value or 0),
            seeds=min(MOST_SEEDS, max(1, int(self.count.value or 1))),
            strengths=STRENGTHS if self.all_strengths.value else (float(self.strength.value or 1.0),),
            negative=str(self.negative.value or ""),
            is_negative=bool(self.as_negative.value),
        )
        trial.check()
        return trial

    def stop(self) -> None:
        """Stop after the images that are being generated."""
        self.is_stopped = True
        self.stop_button.disable()

    async def generate(self) -> None:
        """Generate the images, and show them on one sheet, also if they are stopped or fail half-way."""
        if not self.model.value:
            raise RuntimeError("Choose the model that the word was learned for.")
        trial, files = self.trial(), dict[Batch, tuple[Path, ...]]()
        device = device_for(self.state.queue, str(self.device.value or ""))
        folder = self.state.home.folder("images") / f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**6:06d}"
        self.is_stopped = False
        self.result.clear()
        self.show_busy(True)
        try:
            for i, batch in enumerate(trial.batches()):
                if self.is_stopped or self.result.is_deleted:  # the tab was closed
                    break
                self.progress.text = f"{i * trial.seeds} of {trial.count} images"
                request = trial.request(batch, str(self.model.value), int(self.steps.value or 30))
                found = await self.state.workers.generate(request, folder / f"{i:02d}", device)
                if found.error:
                    raise RuntimeError(found.error)
                files[batch] = found.files
        finally:
            if files and not self.result.is_deleted:
                name = "-".join([*(word.file.stem for word in self.words), "sheet.png"])
                await self.show_sheet(trial, files, folder / name)
            self.show_busy(False)

    def show_busy(self, is_busy: bool) -> None:
        """Show whether images are being generated."""
        self.button.set_enabled(not is_busy)
        self.button.props(add="loading") if is_busy else self.button.props(remove="loading")
        self.stop_button.set_visibility(is_busy)
        self.stop_button.enable()
        self.progress.text = ""

    async def show_sheet(self, trial: Trial, files: dict[Batch, tuple[Path, ...]], file: Path) -> None:
        """Show the images on one sheet, which can be downloaded, and each of them alone."""
        rows = trial.rows(files)
        made = await self.state.workers.do("images", work.sheet, rows, trial.heads(), file)
        if made.error:
            tell(made.error, "negative")
        with self.result:
            if made.files:
                picture(file, "sheet of all images", 1280)
                ui.button(
                    "Download the sheet", icon="download", on_click=lambda: ui.download(file_url(file, True), file.name)
                )
            with ui.expansion("Single images").classes("w-full"), ui.element("div").classes("n-strip"):
                for label, images in rows:
                    for head, image in zip(trial.heads(), images, strict=False):
                        picture(image, f"{label}, {head}", SINGLE)
