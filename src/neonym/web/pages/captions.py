"""The captions of a data set side by side with their images, a page of them at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from nicegui import ui

from neonym.errors import counted
from neonym.web.data_set import DataSet
from neonym.web.draft import Draft
from neonym.web.masks import MASKS, mask_of
from neonym.web.pages.frame import dim, picture, tell, telling
from neonym.web.processes import run_command

PER_PAGE = 24  # images
CAPTIONERS = {"describe": "sentences (BLIP and the like)", "tag": "tags (WD tagger)"}
COUNTED = 2000  # images whose captions are looked through for the word after each change


class Captions:
    """The images of a data set with their captions, which are written as soon as they are edited."""

    def __init__(self, draft: Draft, changed: Callable[[], None]):
        self.draft, self.changed = draft, changed
        self.data_set: DataSet | None = None
        self.images: list[Path] = []
        self.page = 0

    def word(self) -> str:
        """Return the new word, "" if it has no name yet."""
        return str(self.draft.values.get("token_string", ""))

    def build(self) -> None:
        """Make the places for what is shown."""
        self.summary = dim("Choose a folder with 5 to 50 images.")
        self.tools = ui.row().classes("gap-2 items-center w-full")
        self.box = ui.element("div").classes("n-grid")
        self.pages = ui.row().classes("items-center gap-2")

    def show(self, data_set: DataSet) -> None:
        """Show a data set from its first image."""
        self.data_set, self.page = data_set, 0
        self.images = data_set.images()
        self.show_tools()
        self.show_page()

    def show_tools(self) -> None:
        """Show the tools for all captions at once."""
        self.tools.clear()
        if not self.images:
            return
        with self.tools:
            ui.button("Add the word to all", on_click=telling(self.add_word)).props("outline dense")
            old = ui.input("Find").props("dense outlined")
            new = ui.input("Replace by").props("dense outlined")

            async def replace() -> None:
                assert self.data_set is not None
                count = await asyncio.to_thread(self.data_set.replace, old.value or "", new.value or "")
                self.after(count)

            ui.button("Replace in all", on_click=telling(replace)).props("outline dense")
            ui.button("Caption with a local model", on_click=telling(self.describe)).props("outline dense")

    async def add_word(self) -> None:
        """Put the word in front of captions that lack it."""
        if not self.word():
            tell("Name the new word first.", "warning")
        elif self.data_set is not None:
            self.after(await asyncio.to_thread(self.data_set.add_word, self.word()))

    async def describe(self) -> None:
        """Let a model on this machine caption the images, in a process of its own."""
        assert self.data_set is not None
        with ui.dialog() as dialog, ui.card().style("max-width: 600px; width: 100%"):
            kind = ui.select(CAPTIONERS, value="describe", label="Kind of model").classes("w-full")
            model = ui.input("Folder of the model").classes("w-full")
            prefix = ui.input("Text before each caption", value=f"{self.word()}, " if self.word() else "")
            overwrite = ui.switch("replace captions that exist already")
            with ui.row():
                ui.button("Caption", on_click=lambda: dialog.submit(True))
                ui.button("Cancel", on_click=lambda: dialog.submit(False)).props("flat")
        if not await dialog:
            return
        flags = [str(kind.value), str(self.data_set.folder), f"--model={model.value}", f"--prefix={prefix.value}"]
        part = self.images[0].parent
        flags.append(f"--caption_extension={self.data_set.new_extension(part)}")
        switches = {"--recursive": part != self.data_set.folder, "--overwrite": overwrite.value}
        flags += [flag for flag, is_on in switches.items() if is_on]
        tell("The model captions the images. This may take minutes.", "info")
        said = await run_command(["caption", *flags])
        self.show_page()
        self.changed()
        tell(said or "Done.")

    def after(self, count: int) -> None:
        """Show what a tool did."""
        tell(f"{counted(count, 'caption')} changed.")
        self.show_page()
        self.changed()

    def refresh_words(self) -> None:
        """Show which captions lack the word, after it got another name."""
        self.show_summary()

    def show_summary(self) -> None:
        """Show how many images there are, and how many captions lack the word."""
        if self.data_set is None:
            return
        count, word = len(self.images), self.word()
        self.summary.text = f"{counted(count, 'image')} in {self.data_set.summary()}"
        if word and 0 < count <= COUNTED:
            missing = len(self.data_set.without_word(word))
            self.summary.text += f"; {missing or 'no'} caption{'s' * (missing != 1)} without {word}"

    def show_page(self) -> None:
        """Show one page of images."""
        self.show_summary()
        self.box.clear()
        self.pages.clear()
        first = self.page * PER_PAGE
        with self.box:
            for image in self.images[first : first + PER_PAGE]:
                self.show_image(image)
        last = max(0, (len(self.images) - 1) // PER_PAGE)
        if last:
            with self.pages:
                ui.button(icon="chevron_left", on_click=lambda: self.turn(-1)).props(
                    'flat dense aria-label="previous images"'
                ).set_enabled(self.page > 0)
                ui.label(f"{first + 1} to {min(first + PER_PAGE, len(self.images))} of {len(self.images)}")
                ui.button(icon="chevron_right", on_click=lambda: self.turn(1)).props(
                    'flat dense aria-label="next images"'
                ).set_enabled(self.page < last)

    def turn(self, by: int) -> None:
        """Show the next or the previous page."""
        self.page += by
        self.show_page()

    def show_image(self, image: Path) -> None:
        """Show an image with its caption."""
        data_set = self.data_set
        assert data_set is not None
        before = data_set.caption(image)

        def keep() -> None:
            nonlocal before
            if field.value != before:
                data_set.set_caption(image, field.value or "")
                before = field.value
                self.show_summary()
                self.changed()

        with ui.column().classes("w-full gap-1"):
            title = data_set.title(image)
            picture(image, f"image {title}")
            if (mask := mask_of(image, data_set.folder, str(self.draft.values.get(MASKS, "")))) is not None:
                picture(mask, f"mask of {title}", 160)
            field = ui.textarea(title, value=before, placeholder=data_set.name_of_part(image))
            field.props("outlined dense autogrow stack-label").classes("w-full")
            field.on("blur", telling(keep))
