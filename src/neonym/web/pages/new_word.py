"""A new word: its images, its name, the model and the settings, checked while they are typed."""

from __future__ import annotations

import shutil
from pathlib import Path

from fastapi import Request
from nicegui import ui

import neonym
from neonym.web.disk import reporting_disk_errors
from neonym.web.draft import Draft, with_schedule
from neonym.web.images import paths_of
from neonym.web.pages.form_check import Check
from neonym.web.pages.form_dialogs import choice_of_name, show_command, show_import
from neonym.web.pages.form_images import ImageFields
from neonym.web.pages.form_model import ModelField
from neonym.web.pages.form_settings import SettingsFields
from neonym.web.pages.form_state import FormState
from neonym.web.pages.form_word import WordFields
from neonym.web.pages.frame import card, confirmed, dim, page, telling
from neonym.web.same_name import NameTaken
from neonym.web.state import State

EXAMPLE = Path(neonym.__file__).parent / "examples"
EXAMPLES = {"nutkin": {"token_string": "nutkin", "init_word": "vegetable"}}
# Quasar gives this no name, and takes it out of the order of the keyboard
LABEL_UPLOADS = """for (const input of document.querySelectorAll(".q-uploader__input")) {
    input.setAttribute("aria-label", "choose images and captions to upload"); input.tabIndex = 0 }"""


def new_word_page(state: State) -> None:
    """Add the page to the application."""

    @ui.page("/new")
    async def show(request: Request, example: str = "") -> None:
        form = FormState(state)
        if example in EXAMPLES:
            folder = copied(EXAMPLE / example, state.home.folder("datasets") / example)
            form.draft = Draft({**EXAMPLES[example], "train_data_dir": str(folder)})
        with page("New word", "/new"):
            place = ui.column().classes("w-full gap-3")
        await ui.context.client.connected()  # what follows may take seconds
        for file in paths_of(request, "like")[:1]:
            await form.take_recipe(file)
        view = NewWord(form)
        with place:
            view.build()
        ui.run_javascript(LABEL_UPLOADS)
        await view.model.look()
        view.check.soon()
        await view.model.look_for_models()


def copied(source: Path, folder: Path) -> Path:
    """Return a folder with the files of another one, which is copied if it is not there yet. Raises UserError."""
    with reporting_disk_errors(folder):
        if not folder.is_dir():
            shutil.copytree(source, folder)
    return folder


class NewWord:
    """The form of a new word, in one browser tab."""

    def __init__(self, form: FormState):
        self.form, self.state = form, form.state
        self.images = ImageFields(form)
        self.word = WordFields(form, on_name=self.images.captions.refresh_words)
        self.settings = SettingsFields(form)
        self.model = ModelField(form, on_recognised=self.settings.show)
        self.check = Check(form, after=self.word.show_start)
        form.on_change = self.check.soon

    def build(self) -> None:
        """Show all parts of the form."""
        with card("1. The word"):
            self.word.build()
        with card("2. The images"):
            self.images.build()
        with card("3. The model"):
            self.model.build()
        with card("4. Settings"):
            self.settings.build()
        with card("5. Sample images while it learns"):
            dim("They are generated five times, so that you can watch the word grow.")
            self.prompts = ui.textarea("Prompts, one per line; {word} is the new word", value=self.form.prompts)
            self.prompts.props("outlined dense autogrow debounce=400").classes("w-full")
            self.prompts.on_value_change(telling(lambda event: setattr(self.form, "prompts", event.value or "")))
        with card("6. Check and train"):
            findings = ui.column().classes("w-full")
            with ui.row().classes("gap-2 items-center"):
                train = ui.button("Train", icon="play_arrow", on_click=telling(self.train))
                ui.button("Show the command", on_click=telling(lambda: show_command(self.form))).props("outline")
                ui.button("Import settings", on_click=lambda: show_import(self.form)).props("outline")
                ui.button("Clear", on_click=telling(self.clear)).props("flat")
            with findings:
                self.check.build(train)

    async def clear(self) -> None:
        """Empty the form."""
        if await confirmed("Empty the whole form? Images and captions stay as they are.", "Empty it"):
            self.form.clear()
            self.form.show_again()

    async def train(self) -> None:
        """Queue the run, and show it. If its name is taken, the user chooses what to do."""
        word = self.form.word
        prompts = "\n".join(line.replace("{word}", word) for line in (self.prompts.value or "").splitlines())
        draft = with_schedule(self.form.draft, self.form.model.defaults, bool(prompts.strip()))
        try:
            entry = self.state.queue.add(draft, prompts)
        except NameTaken as error:
            choice = await choice_of_name(error, error.free_name)
            if not choice:
                return
            if choice == "replace":
                self.state.queue.replace_earlier(error.run_folder)
            else:
                draft.set("output_name", error.free_name)
            entry = self.state.queue.add(draft, prompts)
        ui.navigate.to(f"/run/{entry.id}")
