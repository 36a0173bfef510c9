"""A new word: its images, its name, the model and the settings, checked while they are typed."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from fastapi import Request
from nicegui import events, ui

import neonym
from neonym import UserError
from neonym.web import work
from neonym.web.data_set import DataSet, folders_with_images
from neonym.web.disk import reporting_disk_errors
from neonym.web.draft import FIELDS, MAIN, PRESETS, Draft, Values, acting, with_schedule
from neonym.web.images import paths_of
from neonym.web.imports import imported
from neonym.web.masks import MASKS, with_masks
from neonym.web.pages.captions import Captions
from neonym.web.pages.fields import setting_field
from neonym.web.pages.frame import card, dim, page, problem_line, tell, telling
from neonym.web.pages.upload_field import upload_field
from neonym.web.state import State
from neonym.web.uploads import safe_name, take_upload
from neonym.web.work import Checked, ModelAnswer

EXAMPLE = Path(neonym.__file__).parent / "examples"
EXAMPLES = {"nutkin": {"token_string": "nutkin", "init_word": "vegetable"}}
# Quasar gives this no name, and takes it out of the order of the keyboard
LABEL_UPLOADS = """for (const input of document.querySelectorAll(".q-uploader__input")) {
    input.setAttribute("aria-label", "choose images and captions to upload"); input.tabIndex = 0 }"""
PAUSE = 0.6  # seconds after the last change until the settings are checked
PROMPTS = "a photo of {word}\na {word} on a blue background"
SECTIONS = {
    "model": "Model", "concept": "Word", "dataset": "Images and captions", "optim": "Learning",
    "objective": "Loss and noise", "compute": "Precision, memory and speed", "cache": "Cache", "save": "Files",
    "sample": "Sample images", "log": "Logs", "metadata": "Metadata", "hub": "Uploads", "eval": "Evaluation",
}  # fmt: skip


def new_word_page(state: State) -> None:
    """Add the page to the application."""

    @ui.page("/new")
    async def show(request: Request, example: str = "") -> None:
        form = Form(state)
        if example in EXAMPLES:
            folder = copied(EXAMPLE / example, state.home.folder("datasets") / example)
            form.draft = Draft({**EXAMPLES[example], "train_data_dir": str(folder)})
        with page("New word", "/new"):
            place = ui.column().classes("w-full gap-3")
        await ui.context.client.connected()  # what follows may take seconds
        for file in paths_of(request, "like")[:1]:
            await form.take_recipe(file)
        with place:
            form.build()
        ui.run_javascript(LABEL_UPLOADS)
        await form.look_at_model()
        form.check_soon()
        await form.look_for_models()


def copied(source: Path, folder: Path) -> Path:
    """Return a folder with the files of another one, which is copied if it is not there yet. Raises UserError."""
    with reporting_disk_errors(folder):
        if not folder.is_dir():
            shutil.copytree(source, folder)
    return folder


class Form:
    """The form of a new word, in one browser tab."""

    def __init__(self, state: State):
        self.state = state
        self.draft = Draft({k: v for k, v in state.home.read("draft.json", {}).items() if k in (*FIELDS, MASKS)})
        self.fields: dict[str, Any] = {}
        self.model = ModelAnswer()
        self.pending: asyncio.Task[None] | None = None

    def build(self) -> None:
        """Show all parts of the form."""
        with card("1. The word"), ui.element("div").classes("n-grid"):
            self.fields["token_string"] = self.text(
                "token_string", "New word", "a name that the model does not know, such as mychar4"
            )
            self.fields["init_word"] = self.text("init_word", "Starts as", "an ordinary word for it, such as cat")
            self.starts = dim("")
        with card("2. The images"):
            self.build_images(self.draft.values)
        with card("3. The model"):
            self.models = ui.select(
                self.model_names(), value=self.draft.values.get("pretrained_model_name_or_path") or "builtin:emoji",
                label="Model: one that was found, or the path of a file or a Diffusers folder", with_input=True,
                new_value_mode="add-unique", on_change=telling(self.take_model),
            ).props("outlined dense stack-label").classes("w-full")  # fmt: skip
            self.model_line = dim("")
            with ui.expansion("Add a folder with models").classes("w-full"):
                path = ui.input("Folder, such as the models folder of another program").classes("w-full")
                ui.button("Add folder", on_click=telling(lambda: self.add_models(path.value or ""))).props("outline")
        with card("4. Settings"):
            dim("Empty fields have the value that suits the model.")
            self.settings_box = ui.column().classes("w-full")
            self.show_settings()
        with card("5. Sample images while it learns"):
            self.prompts = ui.textarea("Prompts, one per line; {word} is the new word", value=PROMPTS)
            self.prompts.props("outlined dense autogrow").classes("w-full")
        with card("6. Check and train"):
            self.findings = ui.column().classes("w-full").props('aria-live="polite"')
            with ui.row().classes("gap-2 items-center"):
                self.train_button = ui.button("Train", icon="play_arrow", on_click=telling(self.train))
                ui.button("Show the command", on_click=telling(self.show_command)).props("outline")
                ui.button("Import settings", on_click=self.show_import).props("outline")
                ui.button("Clear", on_click=telling(self.clear)).props("flat")

    def build_images(self, draft: Values) -> None:
        """Show the fields of the images, and the images with their captions."""
        self.folder = ui.select(
            self.data_sets(), value=draft.get("train_data_dir"), label="Folder", with_input=True,
            new_value_mode="add-unique", on_change=telling(self.take_folder),
        ).props("outlined dense stack-label").classes("w-full")  # fmt: skip
        upload_field(self.take_upload)
        self.masks = ui.input("Folder of masks, if there are any: white counts, black does not",
                              value=draft.get(MASKS, ""), on_change=telling(self.take_masks))  # fmt: skip
        self.masks.props("outlined dense stack-label debounce=400").classes("w-full")
        self.captions = Captions(self.draft, self.check_soon)
        self.captions.build()
        if draft.get("train_data_dir") and self.state.home.allows(Path(draft["train_data_dir"])):
            self.captions.show(self.data_set(Path(draft["train_data_dir"])))

    def text(self, name: str, label: str, placeholder: str) -> ui.input:
        """Show a field for a text."""
        field = ui.input(label, value=self.draft.values.get(name, ""), placeholder=placeholder,
                         on_change=lambda event: self.set(name, event.value))  # fmt: skip
        field.props("outlined dense stack-label debounce=400").classes("w-full")
        return field

    def show_settings(self) -> None:
        """Show the fields of settings: the main ones, and all others that act on this model."""
        self.settings_box.clear()
        self.fields = {name: field for name, field in self.fields.items() if name in ("token_string", "init_word")}
        with self.settings_box:
            with ui.row().classes("gap-2 items-center"):
                presets = [*PRESETS, *self.own_presets()]
                ui.select(presets, label="Preset", on_change=telling(self.take_preset)).props("outlined dense").style(
                    "min-width: 160px"
                )
                ui.button("Keep these as a preset", on_click=telling(self.keep_preset)).props("flat dense")
            with ui.element("div").classes("n-grid"):
                for name in MAIN:
                    self.fields[name] = setting_field(name, self.draft, self.changed, self.model.defaults)
            with ui.expansion("All settings").classes("w-full") as every:
                every.on_value_change(lambda event: self.show_all(every) if event.value else None)

    def show_all(self, box: ui.expansion) -> None:
        """Show all other settings, the first time that they are asked for."""
        if any(name not in (*MAIN, "token_string", "init_word") for name in self.fields):
            return
        names = acting(self.model.process or None)
        with box:
            for section, title in SECTIONS.items():
                own = [name for name in names if FIELDS[name][0] == section]
                if own:
                    self.show_section(title, own)

    def show_section(self, title: str, names: list[str]) -> None:
        """Show the fields of a section, which is open if one of them is set."""
        is_open = any(name in self.draft.values for name in names)
        with ui.expansion(title, value=is_open).classes("w-full"), ui.element("div").classes("n-grid"):
            for name in names:
                self.fields[name] = setting_field(name, self.draft, self.changed, self.model.defaults)

    def set(self, name: str, value: Any) -> None:
        """Take a value that was typed."""
        self.draft.set(name, value.strip() if isinstance(value, str) else value)
        self.changed()
        if name == "token_string":
            self.captions.refresh_words()

    def changed(self) -> None:
        """Keep the draft, and check it soon."""
        try:
            self.state.home.write("draft.json", self.draft.values)
        except UserError as error:  # the disk is full: the form works nevertheless
            tell(str(error), "warning")
        self.check_soon()

    def check_soon(self) -> None:
        """Check the settings a moment after the last change."""
        self.train_button.disable()
        if self.pending is not None:
            self.pending.cancel()
        self.pending = asyncio.create_task(self.check_later())

    async def check_later(self) -> None:
        """Wait until nothing changes, then check, and show what was found."""
        await asyncio.sleep(PAUSE)
        if self.findings.is_deleted:  # the tab was closed
            return
        self.findings.clear()
        with self.findings:
            dim("Checking...")
            await telling(self.check)()

    async def check(self) -> None:
        """Check the settings, and show what was found, and what the vectors start from."""
        values = self.settled()
        self.show_findings(await self.state.workers.do("checks", work.check, values))
        start, model = values.get("init_word", ""), values.get("pretrained_model_name_or_path") or "builtin:emoji"
        found = await self.state.workers.do("checks", work.pieces, start, model) if start else []
        self.starts.text = f"Its vectors start from: {', '.join(found)}" if found else ""

    def settled(self) -> dict[str, Any]:
        """Return the settings as a run would have them. Raises UserError if the disk refuses."""
        home = self.state.home
        return with_masks({"output_dir": str(home.folder("outputs")), **self.draft.values}, home.folder("cache"))

    def show_findings(self, checked: Checked) -> None:
        """Show problems where they are: below the field of their setting, else in the last card."""
        below: dict[str, str] = {}
        rest = []
        for finding in checked.findings:
            if finding.setting in self.fields and finding.severity == "error":
                below.setdefault(finding.setting, finding.text)
            rest.append(finding)
        for name, field in self.fields.items():
            if hasattr(field, "error"):
                field.error = below.get(name)
        self.findings.clear()
        with self.findings:
            for finding in rest:
                problem_line(finding.severity, finding.text)
            if checked.ready:
                problem_line("note", "Ready to train.")
        self.train_button.set_enabled(checked.ready)

    def data_set(self, folder: Path) -> DataSet:
        """Return a folder as a data set, whose captions have the extension that is set."""
        return DataSet(folder, self.state.home.allows, self.draft.values.get("caption_extension", ""))

    def data_sets(self) -> dict[str, str]:
        """Return the folders with images that were found, and that which is chosen."""
        found = {str(path): path.name for path in folders_with_images(self.state.home)}
        chosen = self.draft.values.get("train_data_dir")
        return {**found, **({chosen: chosen} if chosen and chosen not in found else {})}

    def model_names(self) -> dict[str, str]:
        """Return the models that were found, and that which is chosen."""
        chosen = self.draft.values.get("pretrained_model_name_or_path")
        return {**({chosen: chosen} if chosen else {}), **self.state.models.names()}

    def take_folder(self, event: events.ValueChangeEventArguments) -> None:
        """Take a folder of images."""
        if event.value:
            folder = self.state.home.name("datasets", event.value)
            self.draft.set("train_data_dir", str(folder))
            self.captions.show(self.data_set(folder))
            self.changed()

    def take_masks(self, event: events.ValueChangeEventArguments) -> None:
        """Take the folder of masks, once it is one."""
        path = Path(event.value or "").expanduser()
        if not event.value or path.is_dir():
            self.draft.set(MASKS, str(self.state.home.name("datasets", str(path))) if event.value else "")
            self.captions.show_page()
            self.changed()

    async def take_upload(self, event: events.UploadEventArguments) -> None:
        """Take an uploaded image or caption into a folder of the home folder, named after the word."""
        name = safe_name(self.draft.values.get("token_string", "") or "images")
        folder = self.state.home.folder("datasets") / name
        await take_upload(folder, event.file)
        self.draft.set("train_data_dir", str(folder))
        self.folder.set_options(self.data_sets(), value=str(folder))
        self.captions.show(self.data_set(folder))
        self.changed()

    async def take_model(self, event: events.ValueChangeEventArguments) -> None:
        """Take a model, and look at what it is."""
        self.draft.set("pretrained_model_name_or_path", event.value)
        self.changed()
        await self.look_at_model()

    async def add_models(self, path: str) -> None:
        """Add a folder to those in which models are looked for."""
        self.state.home.name("models", path)
        await self.look_for_models()

    async def look_for_models(self) -> None:
        """Offer the models on this machine as they are found and recognised."""
        async for _ in self.state.models.look():
            if self.models.is_deleted:  # the tab was closed
                return
            self.models.set_options(self.model_names())

    async def look_at_model(self) -> None:
        """Show what the model is, and the settings that act on it."""
        name = self.draft.values.get("pretrained_model_name_or_path") or "builtin:emoji"
        self.model_line.text = "Looking at the model..."
        self.model = await self.state.workers.do("checks", work.recognise, name)
        found = f"{self.model.label}, {self.model.native_size} x {self.model.native_size} pixels"
        self.model_line.text = self.model.error or found
        self.show_settings()

    def own_presets(self) -> list[str]:
        """Return the names of the user's presets."""
        return sorted(path.stem for path in self.state.home.folder("presets").glob("*.json"))

    def take_preset(self, event: events.ValueChangeEventArguments) -> None:
        """Take the settings of a preset."""
        name = str(event.value)
        values = PRESETS.get(name) or self.state.home.read(f"presets/{safe_name(name)}.json", {})
        self.draft.update(values)
        self.changed()
        self.show_settings()

    async def keep_preset(self) -> None:
        """Keep the settings, without the word and its images, under a name."""
        with ui.dialog() as dialog, ui.card():
            name = ui.input("Name of the preset")
            ui.button("Keep", on_click=lambda: dialog.submit(name.value))
        given = await dialog
        if given:
            own = ("token_string", "init_word", "train_data_dir", "dataset_config", "output_dir", "output_name")
            values = {key: value for key, value in self.draft.values.items() if key not in own}
            self.state.home.write(f"presets/{safe_name(given)}.json", values)
            self.show_settings()

    def show_command(self) -> None:
        """Show the command and the file that do the same."""
        with ui.dialog() as dialog, ui.card().style("max-width: 760px; width: 100%"):
            ui.label("The same on a command line, without sample images, for which it needs a file of prompts:")
            draft = with_schedule(Draft(self.settled()), self.model.defaults, has_prompts=False)
            ui.label(draft.command()).classes("n-mono")
            ui.label("As a file for --config_file:")
            ui.label(draft.toml()).classes("n-mono")
            ui.button("Close", on_click=dialog.close).props("flat")
        dialog.open()

    def show_import(self) -> None:
        """Let the user paste a command, a config file or the settings of another program."""
        with ui.dialog() as dialog, ui.card().style("max-width: 760px; width: 100%"):
            ui.label("Paste an sd-scripts or Neonym command, a config file (TOML), or OneTrainer's settings (JSON):")
            text = ui.textarea("Command or file").props("outlined").classes("w-full")

            def take() -> None:
                draft, notes = imported(text.value or "")
                if folder := draft.values.get("train_data_dir"):
                    self.state.home.name("datasets", str(folder))  # the user wrote it
                self.draft.values.clear()
                self.draft.update(draft.values)
                self.state.home.write("draft.json", self.draft.values)
                if notes:
                    result.clear()
                    with result:
                        for note in notes:
                            problem_line("warning", note)
                        ui.button("Go on", on_click=self.refresh)
                else:
                    self.refresh()

            result = ui.column().classes("w-full")
            with ui.row():
                ui.button("Import", on_click=telling(take))
                ui.button("Close", on_click=dialog.close).props("flat")
        dialog.open()

    async def take_recipe(self, file: Path) -> None:
        """Take the settings that a word was learned with."""
        if not self.state.home.can_read(file):
            return
        values, error = await self.state.workers.do("checks", work.recipe, file)
        if error:
            tell(error, "negative")
        known = {name: value for name, value in values.items() if name in FIELDS and name != "output_dir"}
        self.draft = Draft()
        self.draft.update(known)

    def clear(self) -> None:
        """Empty the form."""
        self.draft.values.clear()
        self.refresh()
        self.changed()

    def refresh(self) -> None:
        """Show the draft again, after many of its values changed."""
        self.state.home.write("draft.json", self.draft.values)
        ui.navigate.to("/new")

    def train(self) -> None:
        """Queue the run, and show it."""
        word = self.draft.values.get("token_string", "")
        prompts = "\n".join(line.replace("{word}", word) for line in (self.prompts.value or "").splitlines())
        entry = self.state.queue.add(with_schedule(self.draft, self.model.defaults, bool(prompts.strip())), prompts)
        ui.navigate.to(f"/run/{entry.id}")
