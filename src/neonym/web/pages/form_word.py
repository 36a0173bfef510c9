"""The word in the form of a new word: its name, and the ordinary word that it starts from."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

from neonym.web import work
from neonym.web.pages.form_state import FormState
from neonym.web.pages.frame import dim

NAMES = ("token_string", "init_word")  # of the settings that have a field here


class WordFields:
    """The fields of the word. `on_name` is called when it gets another name."""

    def __init__(self, form: FormState, on_name: Callable[[], None]):
        self.form, self.on_name = form, on_name

    def build(self) -> None:
        """Show the fields, and a line for what the vectors start from."""
        with ui.element("div").classes("n-two"):
            self.text("token_string", "New word", "a name that the model does not know, such as mychar4")
            self.text("init_word", "Starts as", "an ordinary word for it, such as cat")
        self.starts = dim("")

    def text(self, name: str, label: str, placeholder: str) -> None:
        """Show a field for a text."""

        def take(value: str) -> None:
            self.form.set(name, value)
            if name == "token_string":
                self.on_name()

        field = ui.input(label, value=self.form.draft.values.get(name, ""), placeholder=placeholder,
                         on_change=lambda event: take(event.value or ""))  # fmt: skip
        field.props("outlined dense stack-label hide-bottom-space debounce=400").classes("w-full")
        self.form.fields[name] = field

    async def show_start(self) -> None:
        """Show what the vectors start from: the pieces of the vocabulary in the init word."""
        start = self.form.draft.values.get("init_word", "")
        do = self.form.state.workers.do
        found = await do("checks", work.pieces, start, self.form.model_name) if start else []
        self.starts.text = f"Its vectors start from: {', '.join(found)}" if found else ""
