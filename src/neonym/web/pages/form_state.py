"""The state of the form of a new word, which its parts share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nicegui import ui

from neonym import UserError
from neonym.web import work
from neonym.web.draft import FIELDS, Draft
from neonym.web.masks import MASKS, with_masks
from neonym.web.pages.frame import tell
from neonym.web.state import State
from neonym.web.work import ModelAnswer

DRAFT, PROMPTS = "draft.json", "draft-prompts.json"  # in the home folder: the form as it was left
USUAL_PROMPTS = "a photo of {word}\na {word} on a blue background"
DEFAULT_MODEL = "builtin:emoji"


class FormState:
    """The draft of a new word in one browser tab, its fields by their settings, and the model that was recognised.

    `on_change` is called after every change.
    """

    def __init__(self, state: State):
        self.state = state
        self.draft = Draft({k: v for k, v in state.home.read(DRAFT, {}).items() if k in (*FIELDS, MASKS)})
        self.fields: dict[str, Any] = {}
        self.model = ModelAnswer()
        self.on_change: Callable[[], None] = lambda: None

    @property
    def word(self) -> str:
        """The new word, "" if it has no name yet."""
        return str(self.draft.values.get("token_string", ""))

    @property
    def model_name(self) -> str:
        """The model that is chosen."""
        return str(self.draft.values.get("pretrained_model_name_or_path") or DEFAULT_MODEL)

    def set(self, name: str, value: Any) -> None:
        """Take a value that was typed."""
        self.draft.set(name, value.strip() if isinstance(value, str) else value)
        self.changed()

    def changed(self) -> None:
        """Keep the draft, and let the form follow."""
        try:
            self.state.home.write(DRAFT, self.draft.values)
        except UserError as error:  # the disk is full: the form works nevertheless
            tell(str(error), "warning")
        self.on_change()

    @property
    def prompts(self) -> str:
        """The prompts of the sample images, one per line."""
        return str(self.state.home.read(PROMPTS, {}).get("prompts", USUAL_PROMPTS))

    @prompts.setter
    def prompts(self, text: str) -> None:
        self.state.home.write(PROMPTS, {"prompts": text})

    def settled(self) -> dict[str, Any]:
        """Return the settings as a run would have them. Raises UserError if the disk refuses."""
        home = self.state.home
        return with_masks({"output_dir": str(home.folder("outputs")), **self.draft.values}, home.folder("cache"))

    def replace(self, draft: Draft) -> None:
        """Take over all values of another draft. Raises UserError if the disk refuses."""
        self.draft.values.clear()
        self.draft.update(draft.values)
        self.state.home.write(DRAFT, self.draft.values)

    def clear(self) -> None:
        """Empty the form. Raises UserError if the disk refuses."""
        self.replace(Draft())
        self.prompts = USUAL_PROMPTS

    def show_again(self) -> None:
        """Show the form again, after many of its values changed."""
        ui.navigate.to("/new")

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
