"""The settings in the form of a new word: presets, the five that matter, and all others that act on the model."""

from __future__ import annotations

from nicegui import events, ui

from neonym.web.draft import FIELDS, MAIN, PRESETS, acting
from neonym.web.pages.fields import setting_field
from neonym.web.pages.form_state import FormState
from neonym.web.pages.form_word import NAMES
from neonym.web.pages.frame import dim, telling
from neonym.web.uploads import safe_name

SECTIONS = {
    "model": "Model", "concept": "Word", "dataset": "Images and captions", "optim": "Learning",
    "objective": "Loss and noise", "compute": "Precision, memory and speed", "cache": "Cache", "save": "Files",
    "sample": "Sample images", "log": "Logs", "metadata": "Metadata", "hub": "Uploads", "eval": "Evaluation",
}  # fmt: skip
OF_ONE_WORD = ("token_string", "init_word", "train_data_dir", "dataset_config", "output_dir", "output_name", "masks")


class SettingsFields:
    """The fields of the settings, which are made from the schema."""

    def __init__(self, form: FormState):
        self.form = form

    def build(self) -> None:
        """Show the fields."""
        dim("You can leave these empty: each empty field has the value that suits the model.")
        self.box = ui.column().classes("w-full")
        self.show()

    def show(self) -> None:
        """Show the main settings, and a place for all others that act on this model."""
        form = self.form
        self.box.clear()
        form.fields = {name: field for name, field in form.fields.items() if name in NAMES}
        with self.box:
            with ui.row().classes("gap-2 items-center"):
                presets = ui.select(
                    [*PRESETS, *self.own_presets()], label="Preset", on_change=telling(self.take_preset)
                )
                presets.props("outlined dense").style("min-width: 160px")
                ui.button("Keep these as a preset", on_click=telling(self.keep_preset)).props("flat dense")
            self.show_fields(MAIN)
            with ui.expansion("All settings").classes("w-full") as every:
                every.on_value_change(lambda event: self.show_all(every) if event.value else None)

    def show_fields(self, names: tuple[str, ...] | list[str]) -> None:
        """Show the fields of some settings side by side."""
        form, size = self.form, self.form.model.native_size
        defaults = {"resolution": str(size) if size else "", **form.model.defaults}
        with ui.element("div").classes("n-fields"):
            for name in names:
                form.fields[name] = setting_field(name, form.draft, form.changed, defaults)

    def show_all(self, box: ui.expansion) -> None:
        """Show all other settings, the first time that they are asked for."""
        if any(name not in (*MAIN, *NAMES) for name in self.form.fields):
            return
        names = acting(self.form.model.process or None)
        with box:
            for section, title in SECTIONS.items():
                if own := [name for name in names if FIELDS[name][0] == section]:
                    is_open = any(name in self.form.draft.values for name in own)
                    with ui.expansion(title, value=is_open).classes("w-full"):
                        self.show_fields(own)

    def own_presets(self) -> list[str]:
        """Return the names of the user's presets."""
        return sorted(path.stem for path in self.form.state.home.folder("presets").glob("*.json"))

    def take_preset(self, event: events.ValueChangeEventArguments) -> None:
        """Take the settings of a preset."""
        name = str(event.value)
        values = PRESETS.get(name) or self.form.state.home.read(f"presets/{safe_name(name)}.json", {})
        self.form.draft.update(values)
        self.form.changed()
        self.show()

    async def keep_preset(self) -> None:
        """Keep the settings, without the word and its images, under a name."""
        with ui.dialog() as dialog, ui.card():
            name = ui.input("Name of the preset")
            ui.button("Keep", on_click=lambda: dialog.submit(name.value))
        given = await dialog
        if given:
            values = {key: value for key, value in self.form.draft.values.items() if key not in OF_ONE_WORD}
            self.form.state.home.write(f"presets/{safe_name(given)}.json", values)
            self.show()
