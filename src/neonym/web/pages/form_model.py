"""The model in the form of a new word: one of those that were found, or a path, and what it is."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import events, ui

from neonym.web import work
from neonym.web.pages.form_state import FormState
from neonym.web.pages.frame import dim, telling


class ModelField:
    """The field of the model. `on_recognised` is called when it is known what the model is."""

    def __init__(self, form: FormState, on_recognised: Callable[[], None]):
        self.form, self.on_recognised = form, on_recognised

    def build(self) -> None:
        """Show the field, a line for what the model is, and a field for more folders."""
        self.models = ui.select(
            self.names(), value=self.form.model_name, with_input=True, new_value_mode="add-unique",
            label="Model: one that was found, or the path of a file or a Diffusers folder",
            on_change=telling(self.take),
        ).props("outlined dense stack-label").classes("w-full")  # fmt: skip
        self.line = dim("")
        with ui.expansion("Add a folder with models").classes("w-full"):
            path = ui.input("Folder, such as the models folder of another program").classes("w-full")
            ui.button("Add folder", on_click=telling(lambda: self.add_folder(path.value or ""))).props("outline")

    def names(self) -> dict[str, str]:
        """Return the models that were found, and that which is chosen."""
        chosen = self.form.draft.values.get("pretrained_model_name_or_path")
        return {**({chosen: chosen} if chosen else {}), **self.form.state.models.names()}

    async def take(self, event: events.ValueChangeEventArguments) -> None:
        """Take a model, and look at what it is."""
        self.form.draft.set("pretrained_model_name_or_path", event.value)
        self.form.changed()
        await self.look()

    async def add_folder(self, path: str) -> None:
        """Add a folder to those in which models are looked for."""
        self.form.state.home.add_folder("models", path)
        await self.look_for_models()

    async def look_for_models(self) -> None:
        """Offer the models on this machine as they are found and recognised."""
        async for _ in self.form.state.models.look():
            if self.models.is_deleted:  # the tab was closed
                return
            self.models.set_options(self.names())

    async def look(self) -> None:
        """Show what the model is."""
        self.line.text = "Looking at the model..."
        model = self.form.model = await self.form.state.workers.do("checks", work.recognise, self.form.model_name)
        self.line.text = model.error or f"{model.label}, {model.native_size} x {model.native_size} pixels"
        self.on_recognised()
