"""The dialogs of the form of a new word: the same as a command, settings from elsewhere, and a name that is taken."""

from __future__ import annotations

from nicegui import ui

from neonym.web.draft import Draft, with_schedule
from neonym.web.imports import imported
from neonym.web.pages.form_state import FormState
from neonym.web.pages.frame import problem_line, telling
from neonym.web.same_name import NameTaken

WIDE = "max-width: 760px; width: 100%"


def show_command(form: FormState) -> None:
    """Show the command and the file that do the same. Raises ConfigError with every wrong value."""
    draft = with_schedule(Draft(form.settled()), form.model.defaults, has_prompts=False)
    toml = draft.toml()
    with ui.dialog() as dialog, ui.card().style(WIDE):
        ui.label("The same on a command line, without sample images, for which it needs a file of prompts:")
        ui.label(draft.command()).classes("n-mono")
        ui.label("As a file for --config_file:")
        ui.label(toml).classes("n-mono")
        ui.button("Close", on_click=dialog.close).props("flat")
    dialog.open()


def show_import(form: FormState) -> None:
    """Let the user paste a command, a config file or the settings of another program."""
    with ui.dialog() as dialog, ui.card().style(WIDE):
        ui.label("Paste an sd-scripts or Neonym command, a config file (TOML), or OneTrainer's settings (JSON):")
        text = ui.textarea("Command or file").props("outlined").classes("w-full")

        def take() -> None:
            draft, notes = imported(text.value or "")
            if folder := draft.values.get("train_data_dir"):
                form.state.home.add_folder("datasets", str(folder))  # the user wrote it
            form.replace(draft)
            if not notes:
                form.show_again()
                return
            result.clear()
            with result:
                for note in notes:
                    problem_line("warning", note)
                ui.button("Go on", on_click=form.show_again)

        result = ui.column().classes("w-full")
        with ui.row():
            ui.button("Import", on_click=telling(take))
            ui.button("Close", on_click=dialog.close).props("flat")
    dialog.open()


async def choice_of_name(error: NameTaken, free: str) -> str:
    """Return what to do about a name that another run has: "keep" both, "replace" the earlier one, or ""."""
    with ui.dialog() as dialog, ui.card().style("max-width: 600px; width: 100%"):
        problem_line("warning", str(error))
        with ui.row().classes("justify-end w-full gap-2"):
            ui.button("Cancel", on_click=lambda: dialog.submit("")).props("flat")
            if error.is_replaceable:
                replace = ui.button("Replace it", color="negative", on_click=lambda: dialog.submit("replace"))
                replace.props("outline").tooltip("The earlier word and its run go to the bin.")
            keep = ui.button(f"Keep both: name this one {free}", on_click=lambda: dialog.submit("keep"))
            keep.props("autofocus")
    return str(await dialog or "")
