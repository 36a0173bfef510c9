"""Fields of the form of a new word, made from the schema: its names, kinds, help and limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin

from nicegui import ui
from nicegui.elements.mixins.validation_element import ValidationElement

from neonym.config.values import as_flag_text, as_written
from neonym.web.draft import FIELDS, Draft

LABELS = {
    "num_vectors_per_token": "Vectors", "max_train_steps": "Steps", "learning_rate": "Learning rate",
    "train_batch_size": "Images per step", "resolution": "Resolution",
}  # fmt: skip


def label_of(name: str) -> str:
    """Return what a setting is called on the page: its name with spaces, unless it has a shorter one."""
    return LABELS.get(name, name.replace("_", " "))


def choices_of(name: str) -> list[str]:
    """Return the values that a setting can have; none if there are many."""
    kind = FIELDS[name][1].annotation
    kinds = [kind] if get_origin(kind) is Literal else [part for part in get_args(kind) if get_origin(part) is Literal]
    return [str(value) for part in kinds for value in get_args(part)]


def is_switch(name: str) -> bool:
    """Return whether a setting is on or off."""
    return FIELDS[name][1].annotation is bool


def text_of(value: Any) -> str:
    """Return a value as it is typed."""
    value = as_written(value)
    if isinstance(value, (list, tuple)):
        return " ".join(map(as_flag_text, value))
    return "" if value is None else str(value)


def setting_field(
    name: str, draft: Draft, changed: Callable[[], Any], defaults: Mapping[str, str] = {}
) -> ValidationElement | ui.switch:
    """Show the field of a setting, which changes the draft; `defaults` are those of the model."""
    info = FIELDS[name][1]

    def take(event: Any) -> None:
        draft.set(name, event.value)
        changed()

    if is_switch(name):
        switch = ui.switch(label_of(name), value=bool(draft.values.get(name, info.default)), on_change=take)
        hint(switch, name)
        return switch
    value, usual = text_of(draft.values.get(name)), defaults.get(name) or text_of(info.default)
    if options := choices_of(name):
        given = {"": f"default{f': {usual}' if usual else ''}", **{option: option for option in options}}
        field: Any = ui.select(given, value=value if value in given else "", label=label_of(name), on_change=take)
    else:
        field = ui.input(label_of(name), value=value, placeholder=usual, on_change=take)
        field.props("debounce=400")
    field.props("outlined dense stack-label hide-bottom-space").classes("w-full")
    hint(field, name)
    return field


def hint(field: ui.element, name: str) -> None:
    """Show the help of a setting when the pointer or the keyboard is on its field."""
    with field:
        ui.tooltip(FIELDS[name][1].description or "").classes("n-text").style("max-width: 420px; font-size: 13px")
